"""Shapes and types are checked in every test; seeds are fixed; stages run in order, cheapest first, with their times.

`make test` is one pytest run, so that one summary holds everything. Its stages: the tree (notebooks in sync, clean,
without outputs; lint; types), the units, the slow units, our own tools, the wheel, every chapter executed, the site in
a browser. Two processes share it (pytest-xdist): each takes a file's tests of a stage, then the next file.
"""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
WORKER = "PYTEST_XDIST_WORKER" in os.environ  # one of several processes
os.environ["OMP_NUM_THREADS"] = "1" if WORKER else os.environ.get("OMP_NUM_THREADS", "2")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("detr_lit", "beartype.beartype")  # before anything imports detr_lit

import json  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["tree", "units", "slow units", "tools", "wheel", "chapters", "site"]
SLOW = "-slow"
FILES = {
    "test_notebooks": "tree",
    "test_lint": "tree",
    "test_ext": "tools",
    "test_broken": "tools",
    "test_concordance": "tools",
    "test_editions": "tools",
    "test_execute": "tools",
    "test_formulas": "tools",
    "test_landing": "tools",
    "test_live": "tools",
    "test_mutants": "tools",
    "test_quiz": "tools",
    "test_recap": "tools",
    "test_slim": "tools",
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
    "test_site_trees": "site",
}


def stage_of(file: str, slow: bool) -> str:
    stage = FILES.get(Path(file).stem, "units")
    return "slow units" if slow and stage == "units" else stage


def pytest_addoption(parser):
    parser.addoption("--units", action="store_true", help="the tests of the package alone, quick and slow")


def pytest_collection_modifyitems(config, items):
    stages = {item: stage_of(item.path, item.get_closest_marker("slow") is not None) for item in items}
    if config.option.units:
        items[:] = [i for i in items if stages[i] in ("units", "slow units")]
    items.sort(key=lambda item: STAGES.index(stages[item]))  # stable: the order within a stage stays
    if "network" not in config.option.markexpr:
        left = [i for i in items if i.get_closest_marker("network")]
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if i not in left]
    for item in items:  # tests of one process: they share pages, models, folders
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}{SLOW * (stages[item] == 'slow units')}"))


class Stages:
    "Says which stage begins, and at the end how long each took, all processes together."

    def __init__(self, config):
        self.config = config
        self.times: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid):
        stage = stage_of(nodeid.partition("::")[0], nodeid.endswith(SLOW))
        if stage not in self.times:
            self.times[stage] = 0.0
            report = self.config.pluginmanager.get_plugin("terminalreporter")
            report.ensure_newline()
            report.write_line(f"== {stage}", bold=True)

    def pytest_runtest_logreport(self, report):
        stage = stage_of(report.nodeid.partition("::")[0], "slow" in report.keywords)
        self.times[stage] = self.times.get(stage, 0.0) + report.duration

    def pytest_terminal_summary(self, terminalreporter):
        if len(self.times) > 1:
            terminalreporter.write_line("stages: " + ", ".join(f"{k} {v:.0f} s" for k, v in self.times.items()))


def pytest_configure(config):
    if not WORKER:
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
            print(text, file=sys.stderr, flush=True)

    return line


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    "once(name, make): what `make` returns (JSON), made by one of the processes while the others wait."

    def get(name, make):
        if not WORKER:
            return make()
        folder = tmp_path_factory.getbasetemp().parent
        made = folder / f"{name}.json"
        with FileLock(folder / f"{name}.lock"):
            if not made.exists():
                made.write_text(json.dumps(make()))
        return json.loads(made.read_text())

    return get


@pytest.fixture(scope="session")
def executed(root, once, say) -> dict[str, str]:
    "Every chapter of _toc.yml executed from a fresh kernel (changed ones only): {chapter: error} of those that failed."
    import execute

    return once("executed", lambda: execute.execute(root, say=say))


@pytest.fixture(scope="session")
def site(root, executed, once) -> Path:
    "The site, built with -n -W from the executed chapters."
    import build_site
    import execute

    if executed:
        pytest.fail(f"not built: {', '.join(executed)} failed", pytrace=False)

    def build() -> list[str]:
        execute.stage(root, root / "_build")
        said: list[str] = []
        return said if build_site.build(root, say=said.append) else []

    if said := once("site", build):
        pytest.fail("jupyter-book -n -W:\n" + "\n".join(said[-60:]), pytrace=False)
    return root / "_build" / "html"
