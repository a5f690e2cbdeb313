"""Layouts from made-up weight names: families that nobody has written a table for."""

from strata.lora_math.blocks import builtin_layout, layout_of, parse


def transformer(path, count, *weights):
    return [f"diffusion_model.{path}.{index}.{weight}.weight" for index in range(count) for weight in weights]


FOUR = ("attn.to_q", "attn.to_out", "mlp.up", "mlp.down")


def test_a_new_family_with_a_familiar_list():
    layout = layout_of([*transformer("mega_blocks", 30, *FOUR), "diffusion_model.patch_in.weight"], family="Nova")
    assert [block.name for block in layout.blocks][:2] == ["MB00", "MB01"] and len(layout.blocks) == 30
    assert layout.others == ("patch_in",)
    assert parse("MB7-9=0.5", layout).resolve(layout).weight("diffusion_model.mega_blocks.8.mlp.up.weight") == 0.5


def test_a_new_family_with_an_unfamiliar_list():
    """Found by structure: four weights an element. Sequential MLPs and time embedders are not blocks."""
    keys = transformer("stages", 12, *FOUR) + transformer("t_embedder.mlp", 3, "linear")
    layout = layout_of(keys)
    assert layout.counts == {"STAGES": 12}
    assert layout.locate("diffusion_model.t_embedder.mlp.0.linear.weight").block == "OTHER:t_embedder"
    assert layout.locate("diffusion_model.stages.11.mlp.up.weight").component == "mlp"


def test_lists_inside_elements_do_not_become_lists_of_their_own():
    keys = [f"diffusion_model.stages.{i}.blocks.{j}.{w}.weight" for i in range(3) for j in range(4) for w in FOUR]
    assert layout_of(keys).counts == {"STAGES": 3}


def test_new_helpers_stay_out_of_the_main_numbering():
    keys = transformer("blocks", 20, *FOUR) + transformer("style_adapter.layers", 4, *FOUR)
    layout = layout_of(keys)
    assert {block.group for block in layout.blocks} == {"B"}
    assert [block.name for block in layout.aux] == ["SAL0", "SAL1", "SAL2", "SAL3"]


def test_two_new_lists_never_share_a_name():
    keys = transformer("red_blocks", 3, *FOUR) + transformer("rich_blocks", 3, *FOUR)
    layout = layout_of(keys)
    assert {block.group for block in layout.blocks} == {"RB", "RICHBLOCKS"}
    assert len({block.name for block in layout.blocks}) == 6


def test_a_name_is_never_a_word_of_the_grammar():
    keys = transformer("tall_entries", 3, *FOUR)  # initials: TE
    assert set(layout_of(keys).counts) == {"TALLENTRIES"}


def test_an_empty_model():
    layout = layout_of([])
    assert layout.blocks == () and layout.locate("diffusion_model.x.weight").group == "OTHER"
    assert parse("TE=0.5", layout).default == 1


def test_text_encoder_keys_without_a_layout_are_not_model_weights():
    layout = builtin_layout("Wan")
    assert layout.locate("clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight").block == "TE:clip_l.other"
    assert layout.locate("umt5xxl.transformer.encoder.block.3.layer.0.SelfAttention.q.weight").block == "TE:umt5xxl.3"
    assert layout.locate("umt5xxl.transformer.shared.weight").block == "TE:umt5xxl.other"


def test_a_vision_tower_is_not_the_text_encoders_layers():
    keys = [f"qwen25_7b.transformer.model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
    keys += [f"qwen25_7b.transformer.visual.blocks.{i}.mlp.up_proj.weight" for i in range(9)]
    layout = layout_of([], keys)
    assert layout.encoder_layers == {"qwen25_7b": 4}
    assert layout.locate(keys[-1]).block == "TE:qwen25_7b.other"


def test_middle_blocks_are_one_block_with_parts():
    layout = builtin_layout("SDXL")
    keys = [f"diffusion_model.middle_block.{part}.x.weight" for part in range(3)]
    weights = parse("M=0.5, M00.1=0.25", layout).resolve(layout)
    assert [weights.weight(key) for key in keys] == [0.5, 0.25, 0.5]
    assert [block.name for block in layout.blocks if block.group == "M"] == ["M00"]
