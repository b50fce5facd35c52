/* Python in a worker: loads Pyodide, NumPy, matplotlib and our packages, and runs cells one after the other. */
"use strict";

let python = null, session = null;

const post = (type, rest) => self.postMessage({ type, ...rest });

async function bytesOf(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/* matplotlib would read a hundred font files, for seconds, to make this list. */
async function placeFonts() {
  python.globals.set("fonts", new TextDecoder().decode(await bytesOf("fontlist.json")));
  python.runPython(`
import importlib.util, pathlib
pathlib.Path(importlib.util.find_spec("matplotlib").origin).with_name("fontlist.json").write_text(fonts)
`);
}

async function start({ settings, edits }) {
  const began = performance.now();
  post("progress", { text: "Python is loading" });
  const packed = bytesOf("vbw.zip");
  const address = new URL(settings.pyodide, self.location.href).href;
  importScripts(address + "pyodide.js");
  python = await loadPyodide({ indexURL: address, env: { HOME: "/home/pyodide", MPLBACKEND: "agg", VBW_FAST: "1" } });
  post("progress", { text: "NumPy and matplotlib are loading" });
  await python.loadPackage(settings.packages, { messageCallback: () => {}, checkIntegrity: true });
  post("progress", { text: "The project's packages are loading" });
  await placeFonts();
  python.unpackArchive(await packed, "zip", { extractDir: "/home/pyodide" });
  python.globals.set("say", text => post("said", { text }));
  python.globals.set("label", settings.name);
  python.runPython(`
import os, sys
sys.path.insert(0, "/home/pyodide")
os.chdir("/home/pyodide")
os.environ["VBW_NOTEBOOKS"] = "/home/pyodide/saved"
from vbw_np.teach.browser import Session, save_notebook
session = Session(label, say)
`);
  const save = python.globals.get("save_notebook");
  for (const [name, changed] of Object.entries(edits)) {
    const document = new TextDecoder().decode(await bytesOf(`${name}.ipynb`));
    save("/home/pyodide/saved", `${name}.ipynb`, document, JSON.stringify(changed));
  }
  session = python.globals.get("session");
  post("ready", { seconds: (performance.now() - began) / 1000 });
}

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "start") await start(data);
    else if (data.type === "run")
      post("done", { id: data.id, result: JSON.parse(session.run(data.number, data.source, data.metadata)) });
    else if (data.type === "evaluate") post("value", { id: data.id, value: String(python.runPython(data.source)) });
  } catch (error) {
    post("failed", { id: data.id, text: String(error && error.message || error) });
  }
};
