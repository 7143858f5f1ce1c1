"""Node, which Playwright brings along: the mathematics of our scripts is asked without a page."""

import json
import subprocess
import sys
from pathlib import Path

import playwright
import pytest

NODE = Path(playwright.__file__).parent / "driver" / ("node.exe" if sys.platform == "win32" else "node")
ASSETS = Path(__file__).resolve().parents[1] / "nbs/assets"
ANSWER = """
const vm = require("vm"), world = vm.createContext({ btoa, atob, performance });
for (const file of process.argv.slice(1)) vm.runInContext(require("fs").readFileSync(file, "utf8"), world, file);
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { ask, arg } = JSON.parse(line);
  let said;
  try {
    const value = vm.runInContext(`(${ask})`, world);
    said = { value: (typeof value === "function" ? value(arg) : value) ?? null };
  } catch (error) { said = { error: error.stack }; }
  console.log(JSON.stringify(said));
});
"""


class Scripts:
    "Scripts of the book in a process of Node; `evaluate` asks for a value, or calls a function, as Playwright's pages do."

    def __init__(self, *names):
        command = [NODE, "-e", ANSWER, *(ASSETS / name for name in names)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def evaluate(self, ask, arg=None):
        print(json.dumps({"ask": ask, "arg": arg}), file=self.process.stdin, flush=True)
        said = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said["value"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def scripts(*names):
    "A fixture: these scripts of live parts, alone."

    @pytest.fixture(scope="module")
    def found():
        process = Scripts(*names)
        yield process
        process.close()

    return found
