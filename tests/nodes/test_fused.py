"""All of this pack's LoRAs on a weight are one patch, and it is what they are one after the other.

The reference is the definition in float64: W + sum of strength * alpha / rank * up @ down, each applied in its turn.
"""

from __future__ import annotations

import gc
import threading
import weakref

import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from strata.lora_math.adapters import DoRA, LoHa, LoRA, SetWeight
from strata.lora_math.errors import StrataError
from strata.lora_math.fuse import apply_all_
from strata.nodes.comfy import patch
from strata.nodes.comfy.patch import StrataPatch
from strata.nodes.loader import StrataLoraLoader
from strata.tests.nodes.helpers import lora_makers, small_models

SHAPES = [(48, 32), (32, 48), (24, 16, 3, 3), (16, 24, 3), (16, 8, 1, 3, 3)]


def lora(shape, rank, seed, dtype=torch.float32) -> LoRA:
    return LoRA(*lora_makers.factors(shape, rank, torch.Generator().manual_seed(seed), dtype), None, 0.5 / rank)


def swap(rows):
    return torch.cat(rows.chunk(2)[::-1])


def exact(weight, terms, rows=lambda delta: delta):
    weight = weight.double()
    for strength, adapter in terms:
        up, down = adapter.up.double().flatten(1), adapter.down.double().flatten(1)
        weight = weight + rows(strength * adapter.scale * (up @ down).reshape(weight.shape))
    return weight


def load(model, *files, **settings):
    for name, strength in files:
        model = StrataLoraLoader.execute(name, strength, 0.0, model=model, **settings).result[0]
    return model


def weights_of(patcher, force=True) -> dict:
    comfy.model_management.load_models_gpu([patcher], force_full_load=force)
    try:
        return {key: value.clone() for key, value in patcher.model.state_dict().items()}
    finally:
        comfy.model_management.unload_all_models()


@pytest.fixture
def files(lora_folder):
    """A float64-friendly model and three LoRAs of different ranks on all of it."""
    model = small_models.sd15()
    return model, [
        lora_folder.save(
            f"{rank}.safetensors",
            lora_makers.full_lora(model, rank=rank, seed=rank, alpha=rank / 2, dtype=torch.float32),
        )
        for rank in (4, 8, 3)
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [None, swap], ids=["", "swapped"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_fused_is_the_sequence(shape, dtype, rows):
    weight = torch.randn(shape, dtype=torch.float64).mul(0.05).to(dtype)
    terms = [(0.7, lora(shape, 4, 1)), (-1.3, lora(shape, 9, 2)), (2.0, lora(shape, 1, 3, torch.float16))]
    expected = exact(weight, terms, rows or (lambda delta: delta))
    found = apply_all_(weight.clone(), terms, torch.float32, rows)
    # One rounding of the result (its spacing no longer shrinks below the smallest normal number), and that of the product.
    info = torch.finfo(dtype)
    size = (expected - weight.double()).abs().max()
    bound = info.eps / 2 * expected.abs().clamp(min=info.smallest_normal) + 4e-7 * size
    if dtype == torch.float64:
        bound = 1e-15
    assert ((found.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_views_and_channels_last_are_changed_in_place(dtype):
    whole = torch.randn(96, 40, dtype=dtype)
    terms = [(0.7, lora((32, 40), 4, 1)), (0.3, lora((32, 40), 6, 2))]
    before = whole.clone()
    apply_all_(whole.narrow(0, 32, 32), terms, torch.float32)
    assert torch.equal(whole[:32], before[:32])
    assert torch.equal(whole[64:], before[64:])
    torch.testing.assert_close(whole[32:64].double(), exact(before[32:64], terms), rtol=1e-3, atol=1e-6)
    columns = [(1.0, lora((96, 16), 4, 3)), (0.5, lora((96, 16), 2, 4))]
    before = whole.clone()
    apply_all_(whole.narrow(1, 8, 16), columns, torch.float32)
    torch.testing.assert_close(whole[:, 8:24].double(), exact(before[:, 8:24], columns), rtol=1e-3, atol=1e-6)
    assert torch.equal(whole[:, 24:], before[:, 24:])
    image = torch.randn(16, 8, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    terms = [(0.7, lora(image.shape, 4, 5)), (0.3, lora(image.shape, 2, 6))]
    before = image.clone()
    assert apply_all_(image, terms, torch.float32) is image
    torch.testing.assert_close(image.double(), exact(before, terms), rtol=1e-3, atol=1e-6)


def test_what_is_no_product_keeps_its_place():
    """DoRA's norm and a replaced weight see what came before them and not what comes after."""
    shape = (32, 24)
    weight = torch.randn(shape, dtype=torch.float64)
    make = lambda *size: torch.randn(size, dtype=torch.float64)  # noqa: E731
    a, b, c, d = (lora(shape, 4, seed) for seed in range(4))
    dora = DoRA(lora(shape, 3, 7), make(32).abs() + 1, 0)
    loha = LoHa(make(32, 2), make(2, 24), make(32, 2), make(2, 24), None, None, 0.3)
    terms = [(1.0, a), (0.5, b), (0.8, dora), (0.4, c), (1.0, loha), (-0.6, d)]

    step = exact(weight, terms[:2])
    trained = step + dora.inner.scale * dora.inner.up.double() @ dora.inner.down.double()
    trained = trained * (dora.magnitude / trained.norm(dim=1))[:, None]
    step = exact(step + 0.8 * (trained - step), [(0.4, c)])
    step = step + 0.3 * (loha.w1_a @ loha.w1_b) * (loha.w2_a @ loha.w2_b)
    torch.testing.assert_close(apply_all_(weight.clone(), terms, torch.float64), exact(step, [(-0.6, d)]))

    value = make(*shape)
    replaced = apply_all_(weight.clone(), [(1.0, a), (0.5, SetWeight(value)), (0.5, b)], torch.float64)
    torch.testing.assert_close(replaced, exact(value, [(0.5, b)]))


def test_a_chain_of_loaders_is_one_patch_per_weight(files):
    model, names = files
    chained = load(model, (names[0], 0.7), (names[1], -0.4), (names[2], 0.0), (names[2], 1.5))
    assert {len(entries) for entries in chained.patches.values()} == {1}
    assert not model.patches
    assert all(len(entries[0][1].weights[1]) == 3 for entries in chained.patches.values())
    base, found = model.model.state_dict(), weights_of(chained)
    loras = [safetensors.torch.load_file(_path(name)) for name in names]
    for module, key in lora_makers.unet_names(model).items():
        if f"{module}.lora_up.weight" not in loras[0]:
            continue
        terms = [
            (s, LoRA(f[f"{module}.lora_up.weight"], f[f"{module}.lora_down.weight"], None, 0.5))
            for s, f in zip((0.7, -0.4, 1.5), loras, strict=True)
        ]
        torch.testing.assert_close(found[key].double(), exact(base[key], terms), rtol=1e-6, atol=1e-7)


def _path(name):
    import folder_paths

    return folder_paths.get_full_path("loras", name)


def test_the_order_among_loaders_does_not_matter_but_the_input_stays_as_it_was(files):
    model, names = files
    one = load(model, (names[0], 0.7))
    one_before = {key: [entry[1] for entry in entries] for key, entries in one.patches.items()}
    both, other = load(one, (names[1], 0.5)), load(model, (names[1], 0.5), (names[0], 0.7))
    assert {key: [entry[1] for entry in entries] for key, entries in one.patches.items()} == one_before
    a, b = weights_of(both), weights_of(other)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


def test_slices_of_a_fused_weight_are_one_patch_each(lora_folder):
    """FLUX in diffusers names: q, k and v are thirds of one weight, and each chain of thirds is one patch."""
    model = small_models.flux()
    names = lora_makers.unet_names(model, "transformer.", having="transformer.transformer_blocks.0.attn.to_")
    save = lambda seed: lora_folder.save(  # noqa: E731
        f"{seed}.safetensors", lora_makers.kohya(names, lora_makers.shapes(model.model), seed=seed, dtype=torch.float32)
    )
    files = [save(1), save(2)]
    chained = load(model, (files[0], 1.0), (files[1], 0.5))
    qkv = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    parts = [entry[3] for entry in chained.patches[qkv]]
    assert len(parts) == len(set(parts)) == 3
    separately = weights_of(load(model, (files[0], 1.0)))[qkv] + weights_of(load(model, (files[1], 0.5)))[qkv]
    expected = separately - model.model.state_dict()[qkv]
    torch.testing.assert_close(weights_of(chained)[qkv], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", ["wide", "plain"])
def test_parts_of_a_weight_that_another_lora_widens_are_changed_where_they_are(lora_folder, first):
    """A control LoRA and a plain one, in either order: in a file that widens all of ``linear1`` and one that changes its q, k and v."""
    model = small_models.flux()
    weight = model.model.state_dict()["diffusion_model.single_blocks.0.linear1.weight"].clone()
    out, inputs = weight.shape
    module = "diffusion_model.single_blocks.0.linear1"
    wide = {
        f"{module}.lora_up.weight": torch.full((out, 1), 0.5),
        f"{module}.lora_down.weight": torch.ones(1, 2 * inputs),
        f"{module}.reshape_weight": torch.tensor([out, 2 * inputs]),
    }
    plain = {
        f"{module}_qkv.lora_up.weight": torch.ones(3 * inputs, 1),
        f"{module}_qkv.lora_down.weight": torch.full((1, inputs), 0.25),
    }
    names = {"wide": lora_folder.save("wide.safetensors", wide), "plain": lora_folder.save("plain.safetensors", plain)}
    order = [first, *(name for name in names if name != first)]
    found = weights_of(load(model, *((names[name], 1.0) for name in order)))[f"{module}.weight"]
    expected = torch.full((out, 2 * inputs), 0.5)
    expected[:, :inputs] += weight
    expected[: 3 * inputs, :inputs] += 0.25
    torch.testing.assert_close(found, expected)


def test_other_patches_in_between_keep_their_place(files):
    """ComfyUI's own loader between two of ours, and a merge that scales the weight, are never passed over."""
    model, names = files
    between = comfy.sd.load_lora_for_models(
        load(model, (names[0], 1.0)), None, safetensors.torch.load_file(_path(names[1])), 0.5, 0.0
    )[0]
    ends = load(between, (names[2], 1.0))
    assert {len(entries) for entries in ends.patches.values()} == {3}
    a, b = weights_of(ends), weights_of(load(model, (names[0], 1.0), (names[1], 0.5), (names[2], 1.0)))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


def test_a_patch_that_scales_the_weight_is_not_passed_over():
    model = small_models.sd15()
    key = "diffusion_model.out.2.weight"
    weight = model.model.state_dict()[key]
    first, second = lora(weight.shape, 2, 1), lora(weight.shape, 3, 2)
    clone = model.clone()
    clone.add_patches({key: StrataPatch.of([(0.7, first)], False)}, 2.0, 0.5)
    patch.add(clone, {key: [(0.3, second)]})
    expected = exact(exact(0.5 * weight, [(1.4, first)]), [(0.3, second)])
    found = comfy.lora.calculate_weight(clone.patches[key], weight.clone(), key)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_change_that_overflows_is_refused_by_its_file_and_leaves_the_model_as_it_was(lora_folder, dtype):
    """Each number in the file is sound; their product is not."""
    model = small_models.sd15(dtype)
    base = {key: value.clone() for key, value in model.model.state_dict().items()}
    tensors = lora_makers.full_lora(model, alpha=None, dtype=torch.float32)
    name = lora_folder.save("huge.safetensors", {key: tensor * 5000 for key, tensor in tensors.items()})
    patched = load(model, (name, 1.0))
    with pytest.raises(StrataError, match=r"huge\.safetensors: diffusion_model\..* Lower the strength"):
        weights_of(patched)
    comfy.model_management.unload_all_models()
    assert all(torch.equal(value, base[key]) for key, value in model.model.state_dict().items())
    assert all(value.isfinite().all() for value in weights_of(load(model, (name, 1e-5))).values())


def test_every_change_that_could_overflow_is_looked_at():
    """A large weight, and a change of it that is only a little larger than what is let pass unseen."""
    terms = [(1.0, lora((8, 8), 1, 0))]
    change = float(terms[0][1].delta(torch.zeros(8, 8)).abs().max())
    terms = [(1200 / change, terms[0][1])]
    weight = torch.where(terms[0][1].delta(torch.zeros(8, 8)) > 0, 64600.0, -64600.0)
    with pytest.raises(StrataError, match=r"loud\.safetensors: some\.weight becomes larger"):
        patch.StrataPatch.of(terms, False, "loud.safetensors").calculate_weight(
            weight, "some.weight", 1.0, 1.0, None, None
        )


def test_merging_two_patched_models(files):
    import comfy_extras.nodes_model_merging as merging

    model, names = files
    first, second = load(model, (names[0], 1.0)), load(model, (names[1], 1.0), (names[2], 0.5))
    merged = merging.ModelMergeSimple().merge(first, second, 0.25)[0]
    a, b, found = weights_of(first), weights_of(second), weights_of(merged)
    for key in first.patches:
        torch.testing.assert_close(found[key], 0.25 * a[key] + 0.75 * b[key], rtol=1e-5, atol=1e-6)
    on_top = weights_of(load(merged, (names[2], 1.0)))
    delta = weights_of(load(model, (names[2], 1.0)))
    base = model.model.state_dict()
    for key in first.patches:
        torch.testing.assert_close(on_top[key], found[key] + delta[key] - base[key], rtol=1e-5, atol=1e-6)


def test_a_saved_checkpoint_holds_the_patched_weights(files, tmp_path):
    model, names = files
    chained = load(model, (names[0], 1.0), (names[1], 0.5))
    saved = chained.state_dict_for_saving()
    safetensors.torch.save_file({k: v.to("cpu").contiguous() for k, v in saved.items()}, tmp_path / "x.safetensors")
    saved = safetensors.torch.load_file(tmp_path / "x.safetensors")
    expected = weights_of(chained)
    for key in chained.patches:
        name = key.replace("diffusion_model.", "model.diffusion_model.", 1)
        torch.testing.assert_close(saved[name], expected[key])


def test_hooks_apply_a_fused_patch(files):
    """As a conditioning hook's weights, on top of patches of the model itself, and gone afterwards."""
    model, names = files
    patched, hooked = load(model, (names[0], 1.0)), load(model, (names[1], 1.0), (names[2], 0.5))
    hook = comfy.hooks.WeightHook(strength_model=0.5)
    hook.need_weight_init = False
    hook.weights = {key: entries[0][1] for key, entries in hooked.patches.items()}
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    before = {key: value.clone() for key, value in patched.model.state_dict().items()}
    group = comfy.hooks.HookGroup()
    group.add(hook)
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    patched.register_all_hook_patches(group, target, {})
    patched.apply_hooks(group)
    during = {key: value.clone() for key, value in patched.model.state_dict().items()}
    patched.apply_hooks(None)
    after = {key: value.clone() for key, value in patched.model.state_dict().items()}
    comfy.model_management.unload_all_models()
    full, base = weights_of(hooked), model.model.state_dict()
    for key in hooked.patches:
        torch.testing.assert_close(during[key], before[key] + 0.5 * (full[key] - base[key]), rtol=1e-5, atol=1e-6)
        assert torch.equal(after[key], before[key])


def test_prefetch_rebuilds_the_patch_over_moved_tensors(files):
    model, names = files
    chained = load(model, (names[0], 1.0), (names[1], 0.5))
    for key in list(chained.patches)[:20]:
        lowvram = comfy.model_patcher.LowVramPatch(key, chained.patches)
        buffer = torch.zeros(lowvram.memory_required(), dtype=torch.uint8)
        tensors = [t for t in tree_leaves(chained.patches[key][0][1].weights) if isinstance(t, torch.Tensor)]
        assert lowvram.memory_required() >= sum(t.nbytes for t in tensors)
        weight = model.model.state_dict()[key]
        expected = lowvram(weight.clone())
        (entry,) = lowvram.prepare(buffer, None)
        moved = [t for t in tree_leaves(entry[1].weights) if isinstance(t, torch.Tensor)]
        assert all(_within(t, buffer) for t in moved)
        for source, target in zip(tensors, moved, strict=True):  # where there is no GPU nothing is copied
            target.copy_(source)
        assert torch.equal(lowvram(weight.clone()), expected)


def _within(tensor, buffer):
    start = buffer.data_ptr()
    return start <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= start + buffer.nbytes


def test_the_same_chain_is_the_same_patched_model(files):
    model, names = files
    chain = [(names[0], 0.7), (names[1], 0.5)]
    once, again = load(model, *chain), load(model, *chain)
    assert once.patches_uuid == again.patches_uuid
    assert load(model, *chain[::-1]).patches_uuid != once.patches_uuid


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made anew."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_no_full_size_temporary(dtype):
    weight = torch.zeros(6144, 3072, dtype=dtype)
    terms = [(1.0, lora(weight.shape, 16, 1)), (1.0, lora(weight.shape, 16, 2))]
    found = StrataPatch.of(terms, False)
    with Largest() as largest:
        found.calculate_weight(weight, "key", 1.0, 1.0, None, lambda a: a, torch.float32)
    assert 0 < largest.elements <= weight.numel() / 4


def test_threads_share_a_patch(files):
    """Workers of a multi-GPU run calculate from the same patch at the same time."""
    model, names = files
    chained = load(model, (names[0], 1.0), (names[1], 0.5))
    key = max(chained.patches, key=lambda k: model.model.state_dict()[k].numel())
    weight = model.model.state_dict()[key]
    expected = comfy.lora.calculate_weight(chained.patches[key], weight.clone(), key)
    found = []

    def work():
        found.extend(comfy.lora.calculate_weight(chained.patches[key], weight.clone(), key) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(torch.equal(each, expected) for each in found)


def test_a_model_is_not_kept_alive(lora_folder):
    model = small_models.sd15()
    name = lora_folder.save("a.safetensors", lora_makers.full_lora(model))
    alive = weakref.ref(model.model)
    load(model, (name, 1.0), (name, 0.5))
    del model
    gc.collect()
    assert alive() is None


def test_nothing_to_add_is_no_patch(files):
    model, _ = files
    clone = model.clone()
    patch.add(clone, {"diffusion_model.out.2.weight": [(0.0, lora((4, 32, 3, 3), 2, 1))]})
    assert not clone.patches
