"""Files of facts, as mLAMA and X-FACTR have them."""

import codecs
import gzip
import json

import pytest

from keras_ptuning.datasets import load_mlama, load_xfactr, read_facts


def line(subject="法国", object="巴黎", **more):
    return json.dumps({"sub_label": subject, "obj_label": object, **more}, ensure_ascii=False)


def test_facts(tmp_path):
    path = tmp_path / "P36.jsonl"
    # A byte order mark, U+2028 in a name, an empty line, a fact twice, and no end of line.
    lines = [line(), line("英\u2028国", "伦敦", lineid=3), "", line(), line("中国", "北京")]
    content = codecs.BOM_UTF8 + "\n".join(lines).encode()
    for written in (content, gzip.compress(content)):
        path.write_bytes(written)
        assert read_facts(path) == [("法国", "巴黎"), ("英\u2028国", "伦敦"), ("中国", "北京")]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (line()[:-5], r"P36\.jsonl, line 2: expected an object of JSON\. Received"),
        ('{"sub_label": "法国"}', r"line 2: expected an object of JSON with .*'obj_label'"),
        ('["法国", "巴黎"]', "line 2: expected an object of JSON with"),
        (line(object=None), "line 2: expected a text as 'obj_label'. Received: None"),
        (line(object=" "), "line 2: expected a text as 'obj_label'"),
        (line(subject=5), "line 2: expected a text as 'sub_label'. Received: 5"),
        ("\udcff", "line 2: expected text in UTF-8"),
    ],
)
def test_broken_facts(tmp_path, broken, message):
    path = tmp_path / "P36.jsonl"
    path.write_bytes(f"{line()}\n{broken}".encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_facts(path)


def test_no_facts(tmp_path):
    (tmp_path / "P36.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"no facts in .*P36\.jsonl"):
        read_facts(tmp_path / "P36.jsonl")
    with pytest.raises(FileNotFoundError, match=r"P37\.jsonl"):
        read_facts(tmp_path / "P37.jsonl")


def write_templates(folder, *templates):
    with open(folder / "templates.jsonl", "w", encoding="utf-8") as file:
        for relation, template in templates:
            file.write(json.dumps({"relation": relation, "template": template}) + "\n")


def test_mlama(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"templates\.jsonl"):
        load_mlama(tmp_path)
    write_templates(tmp_path, ("P36", "[X]的首都是[Y]。"), ("P37", "[X]说[Y]。"))
    with pytest.raises(FileNotFoundError, match=r"no facts in .*P36\.jsonl"):
        load_mlama(tmp_path)
    (tmp_path / "P36.jsonl").write_text(line(), encoding="utf-8")
    # Without a template.
    (tmp_path / "P30.jsonl").write_text(line(), encoding="utf-8")
    facts = {"template": "[X]的首都是[Y]。", "facts": [("法国", "巴黎")]}
    assert load_mlama(tmp_path) == {"P36": facts}
    for template in ("[X]的首都", "[X][Y]和[Y]", None):
        write_templates(tmp_path, ("P37", "[X]说[Y]。"), ("P36", template))
        with pytest.raises(ValueError, match=r"templates\.jsonl, line 2: expected a template with"):
            load_mlama(tmp_path)


NAMES = 'Q1\t"France"@en\t"法国"@zh\nQ2\t"巴\\u9ece"@zh\nQ3\t"Spain"@en\n'


@pytest.fixture
def xfactr(tmp_path):
    prompts = 'pid,relation,en,zh\nP36,capital,"[X], capital [Y]",[X]的行政中心是[Y]。\n'
    (tmp_path / "TREx_prompts.csv").write_text(prompts, encoding="utf-8")
    (tmp_path / "mTRExf_unicode_escape.txt").write_text(NAMES, encoding="utf-8")
    facts = tmp_path / "mTRExf" / "sub" / "P36.jsonl"
    facts.parent.mkdir(parents=True)
    pairs = ("Q1", "Q2"), ("Q3", "Q2"), ("Q9", "Q2")
    lines = [line("France", "Paris", sub_uri=s, obj_uri=o) for s, o in pairs]
    facts.write_text("\n".join(lines))
    return tmp_path


def test_xfactr(xfactr):
    facts = {"template": "[X]的行政中心是[Y]。", "facts": [("法国", "巴黎")]}
    assert load_xfactr(xfactr) == {"P36": facts}
    # The object has no English name.
    assert load_xfactr(xfactr, "en")["P36"] == {"template": "[X], capital [Y]", "facts": []}


def test_escaped_names(xfactr):
    names = {r"\U00020bb7\u91ce": "𠮷野", r"\ud842\udfb7": "𠮷", r"a\"b\\": 'a"b\\'}
    for written, name in names.items():
        lines = f'Q1\t"{written}"@zh\nQ2\t"巴黎"@zh\n'
        (xfactr / "mTRExf_unicode_escape.txt").write_text(lines, encoding="utf-8")
        assert load_xfactr(xfactr)["P36"]["facts"] == [(name, "巴黎")]


def test_bad_xfactr(xfactr):
    with pytest.raises(ValueError, match=r"TREx_prompts\.csv' has no column 'el'"):
        load_xfactr(xfactr, "el")
    names = xfactr / "mTRExf_unicode_escape.txt"
    for broken in ("Q4\t西班牙@zh", 'Q4\t"西班牙"'):
        names.write_text(NAMES + broken, encoding="utf-8")
        with pytest.raises(ValueError, match=r"escape\.txt, line 4: expected `Q142<TAB>"):
            load_xfactr(xfactr)
    names.write_text("Q1\n")
    with pytest.raises(ValueError, match="no names in the language 'zh'"):
        load_xfactr(xfactr)
    prompts = xfactr / "TREx_prompts.csv"
    prompts.write_text("pid,zh\nP36,[X]的首都\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"TREx_prompts\.csv, relation P36: expected a template"):
        load_xfactr(xfactr)
    prompts.unlink()
    with pytest.raises(FileNotFoundError, match="TREx_prompts"):
        load_xfactr(xfactr)
