"""SentencePiece's own files, `spiece.model`, as the library `tokenizers` reads vocabularies."""

import json

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

# What the pieces of a model are there for, by its numbers.
_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6
_UNIGRAM = 1
# T5's tokens for what is left out of a text; some files have them, and to others they are added.
SENTINELS = 100


def read_sentencepiece(path):
    """Reads a SentencePiece model into the content of a `tokenizer.json`.

    Where the model has no `<extra_id_0>`, T5's hundred sentinels are added, the last of which is
    `<extra_id_0>`, as Hugging Face adds them.

    Args:
        path: Path of a `spiece.model`, of the kind Unigram.

    Returns:
        `(content, names)`: a string, and what the tokens with a role are called.

    Raises:
        ImportError: if the package `sentencepiece` is not installed.
        ValueError: if the file is damaged, or of another kind.
    """
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise ImportError(
            f"The vocabulary {str(path)!r} needs the package sentencepiece, to be read: `pip "
            'install "keras_ptuning[sentencepiece]"`. Or use a `tokenizer.json` of the same model.'
        ) from None
    model = sentencepiece_model_pb2.ModelProto()
    try:
        with open(path, "rb") as file:
            model.ParseFromString(file.read())
    except DecodeError:
        model.Clear()
    trained, rules = model.trainer_spec, model.normalizer_spec
    if not model.pieces or trained.model_type != _UNIGRAM:
        raise ValueError(
            f"The vocabulary {str(path)!r} is damaged, or not a SentencePiece model of the kind "
            "Unigram, as T5's are. Copy it again, or use a `tokenizer.json` of the same model."
        )
    for piece in model.pieces:
        # mT5 writes "▁<extra_id_0>".
        piece.piece = piece.piece.replace("▁<extra_id_", "<extra_id_")
    pieces = [(p.piece, p.score) for p in model.pieces]
    unknown = next(i for i, p in enumerate(model.pieces) if p.type == _UNKNOWN)
    has_bytes = any(p.type == _BYTE for p in model.pieces)
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=has_bytes))
    steps = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if rules.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    # Other pieces that its author has added are found in texts, by their score.
    special = [
        p.piece
        for p in model.pieces
        if p.type in (_UNKNOWN, _CONTROL) or (p.type == _USER and "extra_id" in p.piece)
    ]
    if "<extra_id_0>" not in dict(pieces):
        special += [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    added = [AddedToken(token, special=True, normalized=False) for token in special]
    backend.add_special_tokens(added)
    names = {"unk_token": pieces[unknown][0]}
    if trained.pad_id >= 0:
        names["pad_token"] = pieces[trained.pad_id][0]
    if trained.eos_id >= 0:
        end = pieces[trained.eos_id][0]
        names["eos_token"] = end
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, trained.eos_id)]
        )
    return backend.to_str(), names


def cut(content, kept):
    """The content of a `tokenizer.json` with some of its tokens.

    Args:
        content: A string, of a vocabulary of the kind Unigram.
        kept: List of token ids, in ascending order.

    Returns:
        A string.

    Raises:
        ValueError: if the vocabulary is of another kind.
    """
    settings = json.loads(content)
    model = settings["model"]
    if model.get("type") != "Unigram":
        raise ValueError(
            "Only vocabularies of SentencePiece, of the kind Unigram, can be cut. Received: one of "
            f"the kind {model.get('type')!r}."
        )
    new = {old: i for i, old in enumerate(kept)}
    # Tokens beyond the model's follow it, in their order.
    pieces = model["vocab"]
    model["vocab"] = [pieces[i] for i in kept if i < len(pieces)]
    model["unk_id"] = new[model["unk_id"]]
    settings["added_tokens"] = sorted(
        ({**t, "id": new[t["id"]]} for t in settings["added_tokens"] if t["id"] in new),
        key=lambda token: token["id"],
    )
    for token in ((settings.get("post_processor") or {}).get("special_tokens") or {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    return json.dumps(settings)
