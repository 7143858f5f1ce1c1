"""Shapes and types are checked in every test; seeds are fixed; stages run in order, cheapest first, with their times.

`make test` is one pytest run, so that one summary holds everything. Its stages: the tree (notebooks in sync, clean,
without outputs; lint; types), the units, the slow units, our own tools, the wheel, every chapter executed, the site in
a browser.
"""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from jaxtyping import install_import_hook

install_import_hook("detr_lit", "beartype.beartype")  # before anything imports detr_lit

import random  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["tree", "units", "slow units", "tools", "wheel", "chapters", "site"]
FILES = {
    "test_notebooks": "tree",
    "test_lint": "tree",
    "test_ext": "tools",
    "test_broken": "tools",
    "test_concordance": "tools",
    "test_editions": "tools",
    "test_execute": "tools",
    "test_landing": "tools",
    "test_live": "tools",
    "test_mutants": "tools",
    "test_quiz": "tools",
    "test_recap": "tools",
    "test_wheel": "wheel",
    "test_chapters": "chapters",
    "test_site": "site",
    "test_site_broken": "site",
    "test_site_detector": "site",
    "test_site_live": "site",
    "test_site_nms": "site",
    "test_site_page": "site",
    "test_site_quiz": "site",
    "test_site_training": "site",
}


def stage_of(item) -> str:
    stage = FILES.get(item.path.stem, "units")
    return "slow units" if stage == "units" and item.get_closest_marker("slow") else stage


def pytest_addoption(parser):
    parser.addoption("--units", action="store_true", help="the tests of the package alone, quick and slow")


def pytest_collection_modifyitems(config, items):
    if config.option.units:
        items[:] = [i for i in items if stage_of(i) in ("units", "slow units")]
    items.sort(key=lambda item: STAGES.index(stage_of(item)))  # stable: the order within a stage stays
    if "network" not in config.option.markexpr:
        left = [i for i in items if i.get_closest_marker("network")]
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if i not in left]


class Stages:
    "Says which stage begins, and at the end how long each took."

    def __init__(self, config):
        self.config = config
        self.times: dict[str, float] = {}
        self.now, self.start = None, 0.0

    def turn(self, stage):
        if stage == self.now:
            return
        if self.now:
            self.times[self.now] = self.times.get(self.now, 0) + time.perf_counter() - self.start
        self.now, self.start = stage, time.perf_counter()
        report = self.config.pluginmanager.get_plugin("terminalreporter")
        if stage and report:
            report.ensure_newline()
            report.write_line(f"== {stage}", bold=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self.turn(stage_of(item))

    def pytest_sessionfinish(self):
        self.turn(None)

    def pytest_terminal_summary(self, terminalreporter):
        if len(self.times) > 1:
            terminalreporter.write_line("stages: " + ", ".join(f"{k} {v:.0f} s" for k, v in self.times.items()))


def pytest_configure(config):
    config.pluginmanager.register(Stages(config), "stages")


@pytest.fixture(autouse=True)
def seeds():
    "The same random numbers in every test, whatever ran before."
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def one_thread():
    "Small products are quickest so, and a neighbour does no harm."
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def coco(tmp_path):
    "A COCO folder of eight toy pictures: ids with gaps, one picture empty, one object a crowd."
    import json

    from PIL import Image
    from torchvision.ops import box_convert

    from detr_lit.data import ToyDetectionDataset

    data = ToyDetectionDataset(8, split="val")
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images, rows = [], []
    for i in range(8):
        image, target = data[i]
        images.append(dict(id=100 - 7 * i, file_name=f"{i}.png"))
        pixels = (image * (i != 2)).mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "val2017" / f"{i}.png")
        for k, box in enumerate(box_convert(target["boxes"] * 128, "cxcywh", "xywh").tolist()):
            if i != 2:
                rows.append(dict(id=len(rows) + 1, image_id=100 - 7 * i, category_id=int(target["labels"][k]), bbox=box,
                                 area=box[2] * box[3] / 2, iscrowd=int(i == 5 and k == 0)))  # fmt: skip
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(dict(images=images, annotations=rows)))
    return tmp_path


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def say(request):
    "Print in spite of pytest's capturing: the long stages report as they go."
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text):
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return line


@pytest.fixture(scope="session")
def executed(root, say) -> dict[str, str]:
    "Every chapter of _toc.yml executed from a fresh kernel (changed ones only): {chapter: error} of those that failed."
    import execute

    say("")
    return execute.execute(root, say=say)


@pytest.fixture(scope="session")
def site(root, executed, say) -> Path:
    "The site, built with -n -W from the executed chapters."
    import build_site
    import execute

    if executed:
        pytest.fail(f"not built: {', '.join(executed)} failed", pytrace=False)
    execute.stage(root, root / "_build")
    said: list[str] = []
    if build_site.build(root, say=said.append):
        pytest.fail("jupyter-book -n -W:\n" + "\n".join(said[-60:]), pytrace=False)
    return root / "_build" / "html"
