"""In Jupyter: what a cell puts out after a guess that nobody has made is covered until the reader asks for it."""

from __future__ import annotations

import builtins
import html
import io
import sys
from typing import Any

LEAD = "No guess yet: put yours into the cell and run it again."
_last = ""


def cover_rest_of_cell() -> bool:
    """Fold away what the running cell prints and shows from here on; False where there is no Jupyter."""
    shell = getattr(builtins, "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "events"):
        return False
    if not isinstance(sys.stdout, _Cover):
        _Cover(shell).lay()
    return True


def uncover() -> None:
    """Print what was covered last: for screens that show no folds."""
    print(_last or "nothing is covered")


class _Cover(io.StringIO):
    """Collects, in place of stdout and of the hook that shows a cell's value, until the cell has run."""

    def __init__(self, shell: Any) -> None:
        super().__init__()
        self.shell = shell
        self.shown: list[str] = []  # HTML
        self.texts: list[str] = []

    def lay(self) -> None:
        self.stdout, sys.stdout = sys.stdout, self
        self.hook, sys.displayhook = sys.displayhook, self.show
        self.shell.events.register("post_run_cell", self.lift)

    def show(self, value: Any) -> None:
        """The value of the cell's last expression."""
        if value is None or self.shell.displayhook.quiet():
            return
        data, _ = self.shell.display_formatter.format(value)
        text = data.get("text/plain", "")
        self._keep_printed()
        self.texts.append(text)
        self.shown.append(data.get("text/html") or f"<pre>{html.escape(text)}</pre>")

    def _keep_printed(self) -> None:
        printed = self.getvalue().strip("\n")
        self.seek(0)
        self.truncate()
        if printed:
            self.texts.append(printed)
            self.shown.append(f"<pre>{html.escape(printed)}</pre>")

    def lift(self, result: Any) -> None:
        """The cell has run: put the fold there; after an error, everything as it is."""
        global _last
        self.shell.events.unregister("post_run_cell", self.lift)
        sys.stdout = self.stdout
        if sys.displayhook == self.show:
            sys.displayhook = self.hook
        self._keep_printed()
        _last = "\n".join(self.texts)
        if not result.success:
            print(_last)
            return
        fold = f"<details><summary>Guess first, then look</summary>{''.join(self.shown)}</details>"
        plain = f"{LEAD} Or ask: vbw_np.teach.uncover()"
        self.shell.display_pub.publish({"text/html": f"<p>{LEAD}</p>{fold}", "text/plain": plain})
