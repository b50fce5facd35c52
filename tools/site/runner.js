/* A notebook's page that runs: cells go to Python in a worker, and what comes back is shown under them. */
"use strict";

const STORE = "vbw:cells:";

class Cell {
  constructor(section, notebook) {
    this.section = section;
    this.notebook = notebook;
    this.id = section.dataset.id;
    this.number = Number(section.dataset.number);
    this.area = section.querySelector("textarea");
    this.shipped = this.area.value;
    this.out = section.querySelector(".out");
    this.state = section.querySelector(".state");
    this.again = section.querySelector(".again");
    this.button = section.querySelector(".run");
    this.ran = false;
    this.editor = makeEditor(this.area, section.querySelector("pre code"), () => this.changed(), () => notebook.runTo(this, true));
    this.button.hidden = false;
    this.button.setAttribute("aria-label", `run cell ${this.number}`);
    this.button.addEventListener("click", () => notebook.runTo(this));
    this.again.addEventListener("click", () => this.write(this.shipped));
  }

  get source() { return this.area.value; }

  write(source) {
    this.area.value = source;
    this.editor.show();
    this.changed();
  }

  changed() {
    this.again.hidden = this.source === this.shipped;
    this.notebook.keep();
  }

  /** waiting, running, done, wrong, stopped or nothing, and how many seconds. */
  mark(state, seconds) {
    this.section.dataset.state = state;
    const time = seconds === undefined ? "" : seconds < 0.05 ? " in no time" : ` in ${seconds.toFixed(1)} s`;
    this.state.textContent = ({ done: "done" + time, wrong: "stopped by an error" + time, waiting: "waits",
      stopped: "stopped", running: "runs" + (this.section.classList.contains("slow") ? ", and takes a while" : "") })[state] || "";
  }

  begin() {
    this.mark("running");
    this.out.replaceChildren();
    this.out.hidden = true;
    this.said = null;
  }

  /** What is printed while it runs. */
  say(text) {
    if (!this.said) {
      this.said = document.createElement("pre");
      this.out.append(this.said);
      this.out.hidden = false;
    }
    this.said.append(text);
  }

  show(result) {
    const parts = [];
    const lines = (text, kind) => {
      const pre = document.createElement("pre");
      if (kind) pre.className = kind;
      for (const line of text.trimEnd().split("\n")) {
        const span = document.createElement("span");
        span.textContent = line;
        pre.append(span);
      }
      parts.push(pre);
    };
    if (result.stdout.trim()) lines(result.stdout);
    if (result.html) {
      const box = document.createElement("div");
      if (!result.html.includes("<figure")) box.className = "scroll";
      box.innerHTML = result.html;
      parts.push(box);
    } else if (result.value !== null) lines(result.value);
    if (result.error) lines(result.error, "error");
    this.ran = true;
    this.mark(result.error ? "wrong" : "done", result.seconds);
    this.out.hidden = !parts.length;
    if (result.unguessed && parts.length && !result.error) {
      const fold = document.createElement("details"), summary = document.createElement("summary");
      summary.textContent = "Guess first, then look";
      fold.append(summary, ...parts);
      this.out.replaceChildren(fold);
    } else this.out.replaceChildren(...parts);
  }
}

class Notebook {
  constructor(settings) {
    this.settings = settings;
    this.bar = document.querySelector(".bar");
    this.cells = [...document.querySelectorAll(".cell")].map(section => new Cell(section, this));
    this.queue = [];
    this.current = null;
    this.worker = null;
    this.ready = false;
    this.answers = new Map();
    this.bar.querySelector(".buttons").hidden = false;
    this.find("all").addEventListener("click", () => this.run(this.cells));
    this.find("stop").addEventListener("click", () => this.stop());
    this.find("download").addEventListener("click", () => this.download());
    this.recall();
    for (const cell of this.cells) cell.editor.show();
  }

  find(name) { return this.bar.querySelector(`[data-is=${name}]`); }

  tell(text) { this.find("status").textContent = text; }

  // -- what the reader changed

  static saved(name) {
    try { return JSON.parse(localStorage.getItem(STORE + name)) || {}; } catch { return {}; }
  }

  recall() {
    const saved = Notebook.saved(this.settings.name);
    for (const cell of this.cells) if (typeof saved[cell.id] === "string") cell.write(saved[cell.id]);
  }

  keep() {
    if (!this.cells) return;
    const changed = this.cells.filter(cell => cell.source !== cell.shipped);
    try {
      localStorage.setItem(STORE + this.settings.name, JSON.stringify(Object.fromEntries(changed.map(c => [c.id, c.source]))));
    } catch { this.tell("This browser keeps nothing: what you change is lost when the page is closed."); }
  }

  async download() {
    const document_ = await (await fetch(`${this.settings.name}.ipynb`)).json();
    const sources = Object.fromEntries(this.cells.map(cell => [cell.id, cell.source]));
    for (const cell of document_.cells) if (cell.id in sources) cell.source = sources[cell.id].split(/(?<=\n)/);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(document_, null, 1)], { type: "application/json" }));
    link.download = `${this.settings.name}.ipynb`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // -- Python

  start() {
    const edits = {};
    for (const name of this.settings.notebooks) {
      const saved = Notebook.saved(name);
      if (Object.keys(saved).length) edits[name] = saved;
    }
    this.worker = new Worker("worker.js");
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.worker.onerror = event => this.failed(event.message || "the worker did not start");
    this.worker.postMessage({ type: "start", settings: this.settings, edits });
    this.began = performance.now();
    this.find("stop").disabled = false;
  }

  heard(message) {
    if (message.type === "progress") this.tell(message.text + " …");
    else if (message.type === "ready") {
      this.ready = true;
      this.loaded = message.seconds;
      this.tell(`Python is ready; it took ${message.seconds.toFixed(1)} s to load.`);
      this.next();
    } else if (message.type === "said") { if (this.current) this.current.say(message.text); }
    else if (message.type === "done") {
      const cell = this.current;
      this.current = null;
      cell.show(message.result);
      this.claims = message.result.claims;
      if (message.result.error) this.drop();
      this.next();
    } else if (message.type === "value") this.answers.get(message.id).done(message.value);
    else if (this.answers.has(message.id)) this.answers.get(message.id).failed(new Error(message.text));
    else if (message.type === "failed") this.failed(message.text);
  }

  failed(text) {
    this.drop();
    if (this.current) this.current.mark("stopped");
    this.current = null;
    const where = this.settings.pyodide.includes("://") ? ` It comes from ${this.settings.pyodide}; is there a connection?` : "";
    this.tell(this.ready ? `Python failed: ${text}` : `Python did not load: ${text}.${where} The page can be read without it.`);
    this.end();
  }

  end() {
    if (this.worker) this.worker.terminate();
    this.worker = null;
    this.ready = false;
    this.find("stop").disabled = true;
    for (const cell of this.cells) cell.ran = false;
  }

  stop() {
    const cell = this.current;
    this.drop();
    this.current = null;
    this.end();
    if (cell) cell.mark("stopped");
    this.tell("Python was stopped, and its variables are gone. The next run starts anew.");
  }

  drop() {
    for (const cell of this.queue) cell.mark("");
    this.queue = [];
  }

  // -- running

  runTo(cell, onward) {
    const above = this.cells.filter(other => other.number < cell.number && !other.ran && other !== this.current && !this.queue.includes(other));
    this.run([...above, cell]);
    const after = this.cells[this.cells.indexOf(cell) + 1];
    if (onward && after) after.area.focus();
  }

  run(cells) {
    for (const cell of cells) {
      if (this.queue.includes(cell)) continue;
      this.queue.push(cell);
      cell.mark("waiting");
    }
    if (!this.worker) this.start();
    else this.next();
  }

  next() {
    if (!this.ready || this.current) return;
    const cell = this.queue.shift();
    if (!cell) {
      const wrong = this.cells.some(other => other.section.dataset.state === "wrong");
      if (this.cells.every(other => other.ran))
        this.tell(wrong ? "All cells ran; one was stopped by an error." : `All cells ran; ${this.claims} claims held.`);
      else if (this.claims) this.tell(`Python is ready; ${this.claims} claims held so far.`);
      return;
    }
    this.current = cell;
    cell.begin();
    this.tell(`Cell ${cell.number} of ${this.cells.length} runs …`);
    this.worker.postMessage({ type: "run", id: cell.id, number: cell.number, source: cell.source, metadata: cell.section.dataset.metadata });
  }

  /** For tests and for curious people: run Python that is not in a cell; a promise of the value's text. */
  evaluate(source) {
    const id = `e${this.answers.size}`;
    return new Promise((done, failed) => {
      this.answers.set(id, { done, failed });
      this.worker.postMessage({ type: "evaluate", id, source });
    });
  }

  get idle() { return !this.current && !this.queue.length; }
}

window.notebook = new Notebook(JSON.parse(document.getElementById("settings").textContent));
