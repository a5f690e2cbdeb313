"""The block weights desk under a person's hands, in both renderers: text, picture and prompt agree after everything."""

import json

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}
FLUX = {"lora": "flux.safetensors"}


def test_a_new_desk(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    values = d.agree(page, server, desk, **FLUX)
    assert len(values) == 60
    assert set(values.values()) == {1}
    assert d.text(page, desk) == ""


def test_dragging_one_fader(page, server):
    desk, _ = d.add_pair(page, **SD15)
    page.requests.clear()
    d.drag(page, desk, "IN04", 0.5)
    assert page.requests == []
    values = d.agree(page, server, desk, **SD15)
    assert values["IN04"] == pytest.approx(0.5, abs=0.051)
    assert {name for name, value in values.items() if value != 1} == {"IN04"}
    d.drag(page, desk, "OUT03", -0.4)
    assert d.agree(page, server, desk, **SD15)["OUT03"] == pytest.approx(-0.4, abs=0.051)


def test_shift_is_fine(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.62, modifiers=["Shift"])
    assert d.agree(page, server, desk, **SD15)["IN04"] == pytest.approx(0.62, abs=0.021)


def test_one_stroke_paints_many(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    page.requests.clear()
    d.paint(page, desk, ["S05", "S20"], 0.25)
    assert page.requests == []
    values = d.agree(page, server, desk, **FLUX)
    painted = {f"S{n:02d}" for n in range(5, 21)}
    assert {name for name, value in values.items() if value != 1} == painted
    assert {values[name] for name in painted} == {0.25}
    assert d.text(page, desk) == "S5-20=0.25, default=1"


def test_one_gesture_is_one_undo(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.number_nodes(page, desk)
    d.drag(page, desk, "IN04", 0.5)
    d.paint(page, desk, ["OUT02", "OUT08"], 0.2)
    after = d.text(page, desk)
    d.undo(page)
    first = d.text(page, desk)
    assert first != after
    assert d.agree(page, server, desk, **SD15)["OUT05"] == 1
    d.undo(page)
    assert d.text(page, desk) == ""
    assert set(d.agree(page, server, desk, **SD15).values()) == {1}
    page.keyboard.press("Control+y")
    for _ in range(20):  # loading the graph anew takes as long as it takes
        d.rest(page, 250)
        if d.text(page, desk) == first:
            break
    assert d.text(page, desk) == first


def test_keys(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.fader(page, desk, "IN04").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowDown")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.94
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    values = d.agree(page, server, desk, **SD15)
    assert (values["IN05"], values["IN06"]) == (-0.5, 1.5)
    page.keyboard.press("Delete")
    assert d.agree(page, server, desk, **SD15)["IN06"] == 1
    assert page.evaluate("(id) => Boolean(app.graph.getNodeById(id))", desk)


def test_a_number_is_typed(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.fader(page, desk, "IN04").focus()
    page.keyboard.type("-1.75")
    page.keyboard.press("Enter")
    assert d.agree(page, server, desk, **SD15)["IN04"] == -1.75
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    assert d.agree(page, server, desk, **SD15)["IN04"] == -1.75
    assert page.evaluate("() => document.activeElement.dataset.name") == "IN04"


def test_double_click_resets(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0.2, IN5=0.2, default=1")
    d.fader(page, desk, "IN04").dblclick()
    values = d.agree(page, server, desk, **SD15)
    assert (values["IN04"], values["IN05"]) == (1, 0.2)


def test_solo_and_mute_give_back_what_they_took(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0.2, OUT*=0.7, default=1")
    before = d.agree(page, server, desk, **SD15)
    d.fader(page, desk, "IN04").click(modifiers=["Alt"])
    soloed = d.agree(page, server, desk, **SD15)
    assert {name: value for name, value in soloed.items() if value} == {"IN04": 0.2}
    d.fader(page, desk, "IN04").click(modifiers=["Alt"])
    assert d.agree(page, server, desk, **SD15) == before
    d.element(page, desk).locator("[data-group=OUT] [data-act=mute]").click()
    assert {d.agree(page, server, desk, **SD15)[f"OUT{n:02d}"] for n in range(12)} == {0}
    d.element(page, desk).locator("[data-group=OUT] [data-act=mute]").click()
    assert d.agree(page, server, desk, **SD15) == before


def test_a_master_scales_its_group(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN0-5=0.5, IN6=0, default=1")
    d.drag(page, desk, "IN*", 0.5, modifiers=["Shift"])
    values = d.agree(page, server, desk, **SD15)
    master = values["IN11"]
    assert master == pytest.approx(0.5, abs=0.03)
    assert values["IN00"] == pytest.approx(master / 2, abs=0.011)
    assert values["IN06"] == 0
    assert values["OUT00"] == 1


def test_the_wheel_belongs_to_the_canvas_unless_alt_is_held(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.fader(page, desk, "IN04").hover()
    page.keyboard.down("Alt")
    box = d.fader(page, desk, "IN04").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.wheel(0, 100)
    d.rest(page, 150)
    page.keyboard.up("Alt")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.95
    scale = page.evaluate("() => app.canvas.ds.scale")
    page.mouse.wheel(0, 100)
    d.rest(page, 200)
    assert page.evaluate("() => app.canvas.ds.scale") < scale
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.95


def test_a_vector_of_26_is_pasted(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.fader(page, desk, "IN04").focus()
    d.paste(page, d.vector(0.5, *[1] * 12, 0, *[0.25] * 12))
    values = d.agree(page, server, desk, **SD15)
    assert (values["TE:clip_l"], values["IN11"], values["M00"], values["OUT11"]) == (0.5, 1, 0, 0.25)
    assert "=" in d.text(page, desk)


def test_what_is_copied_can_be_pasted(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0.2, TE=0, default=0.5")
    before = d.agree(page, server, desk, **SD15)
    d.fader(page, desk, "IN04").focus()
    page.keyboard.press("Control+c")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    d.set_text(page, desk, "")
    d.fader(page, desk, "IN05").focus()
    d.paste(page, copied)
    assert d.agree(page, server, desk, **SD15) == before
    assert page.evaluate("() => app.graph.nodes.length") == 2


def test_unreadable_text_shows_its_error_and_stays(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=zero")
    assert "not a number" in d.element(page, desk).locator(".strata-note").first.text_content()
    d.fader(page, desk, "IN05").focus()
    page.keyboard.press("ArrowDown")
    assert d.text(page, desk) == "IN4=zero"
    assert d.prompt(page, desk)["weights"] == "IN4=zero"
    d.set_text(page, desk, "IN4=0.5")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.5
    assert d.element(page, desk).get_attribute("aria-invalid") is None


def test_rules_on_parts_survive_an_edit(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    d.set_text(page, desk, "D*=0..1, *.mlp=0, default=1")
    d.drag(page, desk, "S10", 0.5)
    assert "D*=0..1" in d.text(page, desk)
    assert "*.mlp=0" in d.text(page, desk)
    d.agree(page, server, desk, **FLUX)


def test_a_preset_of_the_combo_writes_its_text(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    d.choose(page, desk, "preset", "FLUX-DBL-ALL")
    d.rest(page, 700)
    values = d.agree(page, server, desk, **FLUX)
    assert (values["D00"], values["S00"], values["OTHER"]) == (1, 0, 1)
    inputs = d.prompt(page, desk)
    assert inputs["preset"] == "FLUX-DBL-ALL"
    assert inputs["weights"]


def test_presets_are_searched_saved_and_deleted(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    root = d.element(page, desk)
    root.locator("[data-act=presets]").click()
    page.keyboard.type("face agg")
    root.locator(".strata-item").first.wait_for()
    page.keyboard.press("Enter")
    d.rest(page, 700)
    face = d.agree(page, server, desk, **FLUX)
    assert (face["D07"], face["D05"], face["TE:clip_l"]) == (1, 0, 0)
    d.drag(page, desk, "D05", 0.5)
    mine = d.agree(page, server, desk, **FLUX)
    root.locator("[data-act=presets]").click()
    root.locator(".strata-saving input").fill("Mine <b>")
    root.locator("[data-act=save]").click()
    d.rest(page, 700)
    assert d.prompt(page, desk)["preset"] == "Mine <b>"
    assert d.agree(page, server, desk, **FLUX) == mine
    root.locator("[data-act=presets]").click()
    root.locator(".strata-own [data-act=delete]").click()
    d.rest(page, 400)
    assert root.locator(".strata-own").count() == 0
    page.keyboard.press("Escape")
    assert d.agree(page, server, desk, **FLUX) == mine


def test_invert_and_reset(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.set_text(page, desk, "IN4=0.8, default=0.25")
    d.element(page, desk).locator("[data-act=invert]").click()
    d.rest(page, 400)
    values = d.agree(page, server, desk, **SD15)
    assert (values["IN04"], values["M00"]) == (0.2, 0.75)
    d.element(page, desk).locator("[data-act=reset]").click()
    assert set(d.agree(page, server, desk, **SD15).values()) == {1}
    assert d.text(page, desk) == ""


def test_saving_and_loading(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.5)
    before = d.agree(page, server, desk, **SD15)
    saved = page.evaluate("() => JSON.stringify(app.rootGraph.serialize())")
    node = next(node for node in json.loads(saved)["nodes"] if str(node["id"]) == desk)
    assert node["widgets_values"] == ["auto", "none", d.text(page, desk), 0, False]
    page.evaluate(
        "async (saved) => app.loadGraphData(JSON.parse(saved), true, false, app.extensionManager.workflow.activeWorkflow)",
        saved,
    )
    d.wait_for_lora(page, desk, **SD15)
    assert d.agree(page, server, desk, **SD15) == before


def test_a_duplicate_is_its_own(page, server):
    desk, loader = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.5)
    copy = page.evaluate(
        """(id) => {
          const node = app.graph.getNodeById(id)
          app.canvas.selectNode(node)
          app.canvas.copyToClipboard()
          app.canvas.pasteFromClipboard()
          return String(app.graph.nodes.find((other) => other.type === node.type && other !== node).id)
        }""",
        desk,
    )
    page.evaluate("(id) => { app.graph.getNodeById(id).pos = [60, 560] }", copy)
    d.connect(page, copy, loader)
    d.wait_for_lora(page, copy, **SD15)
    before = d.text(page, copy)
    assert before == d.text(page, desk)
    d.fader(page, copy, "IN07").focus()
    page.keyboard.press("Home")
    assert d.text(page, copy) != before
    assert d.text(page, desk) == before
    d.agree(page, server, copy, **SD15)


def test_another_lora_brings_its_layout(page, server):
    desk, loader = d.add_pair(page, **SD15)
    d.choose(page, loader, "lora_name", "wan.safetensors")
    d.wait_for_lora(page, desk, "wan.safetensors")
    assert len(d.agree(page, server, desk, lora="wan.safetensors")) == 42


def test_a_moved_wire_brings_another_lora(page, server):
    desk, _ = d.add_pair(page, **SD15)
    other = d.add(page, "StrataLoraLoader", (950, 560), lora_name="z-image.safetensors")
    page.evaluate("(id) => app.graph.getNodeById(id).disconnectOutput(0)", desk)
    d.connect(page, desk, other)
    d.wait_for_lora(page, desk, "z-image.safetensors")
    assert "CR0" in d.agree(page, server, desk, lora="z-image.safetensors")


def test_without_a_loader_the_chosen_family_decides(page, server):
    desk = d.add(page, layout="Qwen-Image")
    d.rest(page, 900)
    assert len(d.agree(page, server, desk, family="Qwen-Image")) == 62


def test_inside_a_subgraph(page, server):
    """The desk inside, its loader outside: the wire goes through the subgraph's output."""
    desk, _ = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.5)
    before = d.text(page, desk)
    host, inner = page.evaluate(
        """(id) => {
          const { subgraph, node } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]))
          node.pos = [100, 500]
          app.canvas.openSubgraph(subgraph, node)
          return [String(node.id), String(subgraph.nodes.find((n) => n.type === 'StrataLoraBlockWeights').id)]
        }""",
        desk,
    )
    d.wait_for_lora(page, inner, **SD15)
    assert d.text(page, inner) == before
    d.fader(page, inner, "IN07").focus()
    page.keyboard.press("Home")
    d.settle(page)
    assert d.shown(page, inner) == d.meaning(server, d.text(page, inner), **SD15)
    assert d.shown(page, inner)["IN07"] == -0.5
    assert d.prompt(page, f"{host}:{inner}")["weights"] == d.text(page, inner)
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    d.rest(page, 300)


def test_a_wire_into_the_weights_disables_the_desk(page, server):
    desk, _ = d.add_pair(page, **SD15)
    page.evaluate(
        """(id) => {
          const source = LiteGraph.createNode('PrimitiveStringMultiline')
          app.graph.add(source)
          const to = app.graph.getNodeById(id)
          source.connect(0, to, to.inputs.findIndex((input) => input.name === 'weights'))
        }""",
        desk,
    )
    d.rest(page, 600)
    assert "wire" in d.element(page, desk).locator(".strata-note").first.text_content()
    assert d.fader(page, desk, "IN04").get_attribute("aria-disabled") == "true"


def test_the_desk_follows_the_node(page, server):
    desk, _ = d.add_pair(page, **FLUX)
    narrow = d.fader(page, desk, "S37").bounding_box()["width"]
    page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); n.setSize([1000, n.size[1]]); n.graph.setDirtyCanvas(true, true) }",
        desk,
    )
    d.rest(page, 700)
    assert d.fader(page, desk, "S37").bounding_box()["width"] > narrow
    box, inside = d.element(page, desk).bounding_box(), d.fader(page, desk, "OTHER").bounding_box()
    assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
    page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); n.setSize([420, n.size[1]]); n.graph.setDirtyCanvas(true, true) }",
        desk,
    )
    d.rest(page, 700)
    faders = d.element(page, desk).locator(".strata-fader")
    box = d.element(page, desk).bounding_box()
    for fader in faders.all():
        place = fader.bounding_box()
        assert place["width"] >= 6
        assert box["x"] - 1 <= place["x"] and place["x"] + place["width"] <= box["x"] + box["width"] + 1
