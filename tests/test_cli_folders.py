"""Hugging Face folders on the command line: shards, configuration, and what can be wrong with them."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_fast import PermutationSpec, apply_permutation, interpolate, weight_matching
from rebasin_fast.cli._architecture import Architecture
from rebasin_fast.cli._checkpoints import open_checkpoint
from rebasin_fast.cli._proof import prove, require_proof

transformers = pytest.importorskip("transformers")

INDEX = "model.safetensors.index.json"
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def llama(seed, *, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | options)).to(dtype).eval()


def write(model, folder, shards=3):
    """Write a model as save_pretrained does, without its progress bars."""
    folder.mkdir(parents=True)
    config = json.loads(model.config.to_json_string(use_diff=True)) | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"kept": "as it is"}')
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    params = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    names = sorted(params)
    where = {name: f"model-{1 + number % shards:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)}
    for shard in sorted(set(where.values())):
        save_file({n: params[n] for n in names if where[n] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return folder


def read(folder):
    where = json.loads((folder / INDEX).read_text())["weight_map"]
    return {name: load_file(folder / shard)[name] for name, shard in where.items()}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return [write(llama(seed), place / name) for seed, name in enumerate("ab")]


@pytest.fixture
def pair(originals, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in originals]


def test_a_merge_is_what_the_library_makes_and_laid_out_as_the_first(tmp_path, call, pair):
    a, b = pair
    before = contents(tmp_path)
    out = tmp_path / "merged"
    code, told, err = call("merge", a, b, "-o", out, "--lambda", 0.25, "--quiet", "--json")
    assert (code, err) == (0, "")
    assert {path: kept for path, kept in contents(tmp_path).items() if not path.startswith("merged")} == before
    assert [path.name for path in sorted(out.iterdir())] == [path.name for path in sorted(a.iterdir())]
    for name in ("config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (a / name).read_bytes()
    assert json.loads((out / INDEX).read_text())["weight_map"] == json.loads((a / INDEX).read_text())["weight_map"]

    assert call("spec", a, "--save", tmp_path / "spec.json")[0] == 0
    spec = PermutationSpec.load(tmp_path / "spec.json")
    found = weight_matching(spec, read(a), read(b))
    expected = interpolate(read(a), apply_permutation(spec, found.permutation, read(b)), 0.25)
    merged = read(out)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())

    made = json.loads(told)
    assert made["proof"]["holds"] is True
    assert made["proof"]["on"] == "the first checkpoint"
    assert set(made["inputs"][0]["sha256"]) == {"config.json", INDEX, *(p.name for p in a.glob("*.safetensors"))}
    assert json.loads((out / INDEX).read_text())["metadata"]["rebasin_fast"]["inputs"] == made["inputs"]
    assert json.loads((out / INDEX).read_text())["metadata"]["total_size"] == 1
    for shard in out.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            assert json.loads(file.metadata()["rebasin_fast"])["options"]["lambda"] == 0.25
            assert file.metadata()["format"] == "pt"


def test_transformers_loads_it_and_aligned_it_computes_the_same(tmp_path, call, pair):
    a, b = pair
    perm = tmp_path / "perm.safetensors"
    assert call("match", a, b, "-o", perm, "--quiet")[0] == 0
    code, out, err = call("apply", perm, b, "-o", tmp_path / "aligned", "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["result"]["units_moved"] > 0
    load = transformers.LlamaForCausalLM.from_pretrained
    with torch.no_grad():
        logits, expected = (load(folder)(TOKENS).logits for folder in (tmp_path / "aligned", b))
    torch.testing.assert_close(logits, expected)


def test_shards_of_torch_with_tied_embeddings_are_a_model_of_transformers_afterwards(tmp_path, call, pair):
    """As transformers saved models before safetensors: the head is there, too, and is the embedding."""
    folders = []
    for seed, safe in enumerate(pair):
        folder = tmp_path / f"old-{safe.name}"
        folder.mkdir()
        shutil.copyfile(safe / "config.json", folder / "config.json")
        params = llama(seed).state_dict()
        assert "lm_head.weight" in params
        where = {name: f"pytorch_model-{1 + number % 2:05d}-of-00002.bin" for number, name in enumerate(params)}
        for shard in set(where.values()):
            torch.save({name: params[name] for name in params if where[name] == shard}, folder / shard)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
        folders.append(folder)
    assert call("match", *folders, "-o", tmp_path / "perm.safetensors", "--quiet")[0] == 0
    code, _, err = call("apply", tmp_path / "perm.safetensors", folders[1], "-o", tmp_path / "aligned", "--quiet")
    assert (code, err) == (0, "")
    load = transformers.LlamaForCausalLM.from_pretrained
    with torch.no_grad():
        logits, expected = load(tmp_path / "aligned")(TOKENS).logits, llama(1)(TOKENS).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_stay(tmp_path, call, dtype):
    folders = [write(llama(seed, dtype=dtype), tmp_path / f"{seed}") for seed in range(2)]
    assert call("merge", *folders, "-o", tmp_path / "m", "--quiet")[0] == 0
    assert {tensor.dtype for tensor in read(tmp_path / "m").values()} == {dtype}


def test_more_than_two_and_into_one_file(tmp_path, call, pair):
    third = write(llama(2), tmp_path / "c")
    code, _, err = call("merge", *pair, third, "-o", tmp_path / "m.safetensors", "--quiet")
    assert (code, err) == (0, "")
    merged = load_file(tmp_path / "m.safetensors")
    assert merged.keys() == read(third).keys()
    assert all(tensor.isfinite().all() for tensor in merged.values())


def test_a_model_without_shards_has_none_afterwards(tmp_path, call, pair):
    singles = []
    for folder in pair:
        params = read(folder)
        for path in [*folder.glob("*.safetensors"), folder / INDEX]:
            path.unlink()
        save_file(params, folder / "model.safetensors")
        singles.append(folder)
    assert call("merge", *singles, "-o", tmp_path / "m", "--quiet")[0] == 0
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_model_without_its_head_and_masks_of_old_versions(tmp_path):
    """GPT-2's checkpoints lack the prefix of the model with a head, and have masks that nobody reads any more."""
    torch.manual_seed(0)
    options = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**options)).eval()
    folder = write(model, tmp_path / "gpt2", shards=1)
    shard = next(folder.glob("*.safetensors"))
    params = {name.removeprefix("transformer."): tensor for name, tensor in load_file(shard).items()}
    params |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 4, 4) for layer in range(2)}
    shard.unlink()
    (folder / INDEX).unlink()
    save_file(params, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    network = Architecture().completed(folder).resolve(checkpoint.params, "gpt2")
    assert network.spec.axes.keys() == params.keys()
    assert network.spec.axes["h.0.attn.bias"] == (None,) * 4
    assert network.names["network.lm_head.weight"] == "wte.weight"
    assert require_proof(network, checkpoint.params, 1 << 30)["holds"]


def test_the_proof_of_a_model_too_large_is_made_on_its_first_layers(tmp_path):
    folder = write(llama(0, num_hidden_layers=3), tmp_path / "a")
    checkpoint = open_checkpoint(folder)
    network = Architecture().completed(folder).resolve(checkpoint.params)
    numbers = sum(tensor.numel() for tensor in network.model.state_dict().values())
    assert prove(network, checkpoint.params, 20 * numbers)[1] == "the first checkpoint"
    proof, made_on = prove(network, checkpoint.params, 12 * numbers - 1)
    assert (proof.holds, made_on) == (True, "a model of 2 layers, drawn at random")
    with pytest.raises(ValueError, match="--no-prove"):
        prove(network, checkpoint.params, 1000)


def test_a_config_alone_shows_and_saves_its_spec(tmp_path, call, pair):
    code, out, err = call("spec", "--config", pair[0] / "config.json", "--prove", "--save", tmp_path / "s.json")
    assert (code, err) == (0, "")
    assert "holds" in out
    assert "model.embed_tokens.weight" in PermutationSpec.load(tmp_path / "s.json").axes
    code, out, _ = call("spec", pair[0], "--prove", "--json")
    assert code == 0
    assert json.loads(out)["proof"]["on"] == "the first checkpoint"


def test_the_barrier_of_token_models(tmp_path, call, pair):
    save_file({"inputs": TOKENS}, tmp_path / "tokens.safetensors")
    code, out, err = call(
        "barrier", *pair, "--data", tmp_path / "tokens.safetensors", "--lambdas", 3, "--match", "--quiet", "--json"
    )
    assert (code, err) == (0, "")
    curves = json.loads(out)["curves"]
    with torch.no_grad():
        model = transformers.LlamaForCausalLM.from_pretrained(pair[0])
        expected = model(TOKENS, labels=TOKENS).loss.item()
    assert curves["as they are"]["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert curves["matched"]["loss"][-1] == pytest.approx(curves["as they are"]["loss"][-1], rel=1e-4)
    assert curves["matched"]["accuracy"] == [None, None, None]


def damage(folder, kind):
    index = folder / INDEX
    content = json.loads(index.read_text())
    shard = folder / min(set(content["weight_map"].values()) - {"model-00001-of-00003.safetensors"})
    if kind == "missing shard":
        shard.unlink()
    elif kind == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif kind == "empty shard":
        shard.write_bytes(b"")
    elif kind == "index is no JSON":
        index.write_text("{")
    elif kind == "index without a map":
        index.write_text("{}")
    elif kind == "name in no shard":
        content["weight_map"]["model.nothing.weight"] = shard.name
        index.write_text(json.dumps(content))
    elif kind == "name not in the index":
        del content["weight_map"]["model.norm.weight"]
        index.write_text(json.dumps(content))
    elif kind == "shard outside":
        content["weight_map"]["model.norm.weight"] = "../a/model-00001-of-00003.safetensors"
        index.write_text(json.dumps(content))
    elif kind == "no weights":
        for path in [index, *folder.glob("*.safetensors")]:
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif kind == "other shapes":
        shutil.rmtree(folder)
        write(llama(0, intermediate_size=32), folder)
    elif kind == "other names":
        shutil.rmtree(folder)
        write(llama(0, tie_word_embeddings=False), folder)


DAMAGES = {
    "missing shard": "names the shard model-00002-of-00003.safetensors",
    "truncated shard": "model-00002-of-00003.safetensors cannot be read",
    "empty shard": "model-00002-of-00003.safetensors cannot be read",
    "index is no JSON": f"{INDEX} cannot be read",
    "index without a map": f"{INDEX} cannot be read",
    "name in no shard": "which does not hold it",
    "name not in the index": "model.norm.weight",
    "shard outside": "in the same folder",
    "no weights": "pytorch_model.bin",
    "other shapes": "has shape (16, 32); expected (16, 24)",
    "other names": "lm_head.weight",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_told_and_nothing_is_written(tmp_path, call, pair, kind):
    damage(pair[1], kind)
    before = contents(tmp_path)
    code, out, err = call("merge", *pair, "-o", tmp_path / "m", "--quiet")
    assert (code, out) == (2, "")
    assert DAMAGES[kind] in err
    assert err.count("\n") == 1
    assert contents(tmp_path) == before


def test_foreign_code_is_never_run(tmp_path, call, pair):
    config = json.loads((pair[0] / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}}
    (pair[0] / "config.json").write_text(json.dumps(config))
    (pair[0] / "modeling.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    code, _, err = call("merge", *pair, "-o", tmp_path / "m", "--quiet")
    assert code == 2
    assert "never run" in err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": None}, "no model_type"),
        ({"num_attention_heads": 5}, "transformers"),
        ({"architectures": ["os.system"]}, None),  # no class of transformers: the bare model, whose names fit
    ],
)
def test_configurations_that_make_no_sense(tmp_path, call, pair, change, message):
    config = json.loads((pair[0] / "config.json").read_text()) | change
    (pair[0] / "config.json").write_text(json.dumps(config))
    code, _, err = call("merge", *pair, "-o", tmp_path / "m", "--quiet")
    if message is None:
        assert (code, err) == (0, "")
    else:
        assert code == 2
        assert message in err


def test_an_input_and_what_is_no_model_are_never_replaced(tmp_path, call, pair):
    a, b = pair
    before = contents(tmp_path)
    for out in (a, b, a / "m", a / "m.safetensors", tmp_path):
        code, _, err = call("merge", a, b, "-o", out, "--force", "--quiet")
        assert code == 2
        assert "input" in err
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    (home / "x.safetensors").write_text("")
    (home / "letters" / "dear.txt").write_text("precious")
    code, _, err = call("merge", a, b, "-o", home, "--force", "--quiet")
    assert code == 2
    assert "more than the files of a model" in err
    assert (home / "letters" / "dear.txt").read_text() == "precious"
    shutil.rmtree(home)
    assert contents(tmp_path) == before


def test_an_earlier_output_is_replaced_with_force_alone(tmp_path, call, pair):
    out = tmp_path / "m"
    assert call("merge", *pair, "-o", out, "--quiet")[0] == 0
    first = contents(out)
    code, _, err = call("merge", *pair, "-o", out, "--quiet", "--lambda", 0.1)
    assert code == 2
    assert "not overwriting" in err
    assert contents(out) == first
    assert call("merge", *pair, "-o", out, "--quiet", "--lambda", 0.1, "--force")[0] == 0
    assert contents(out) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "m"]
