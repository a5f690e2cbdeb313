"""The desk and the loader in a subgraph, with widgets promoted out of it: the subgraph's widget then decides, and the desk edits that."""

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}


@pytest.fixture
def packed(page):
    """(host, desk, loader) with both nodes inside, in the subgraph's own view; weights, LoRA and strength are the host's."""
    outer_desk, outer_loader = d.add_pair(page, **SD15)
    d.set_text(page, outer_desk, "IN4=0.2, default=1")
    host, desk, loader = page.evaluate(
        """(ids) => {
          const { subgraph, node } = app.graph.convertToSubgraph(new Set(ids.map((id) => app.graph.getNodeById(id))))
          node.pos = [60, 120]
          const [desk, loader] = ['StrataLoraBlockWeights', 'StrataLoraLoader'].map((type) => subgraph.nodes.find((n) => n.type === type))
          for (const [inner, name] of [[desk, 'weights'], [loader, 'lora_name'], [loader, 'strength_model']]) {
            const slot = inner.inputs.find((input) => input.name === name)
            subgraph.addInput(name, String(slot.type)).connect(slot, inner)
          }
          return [node, desk, loader].map((n) => String(n.id))
        }""",
        [outer_desk, outer_loader],
    )
    d.remember(page)
    enter(page, host)
    d.wait_for_lora(page, desk, **SD15)
    yield host, desk, loader
    leave(page)


def enter(page, host):
    page.evaluate(
        "(id) => { const node = app.rootGraph.getNodeById(id); app.canvas.openSubgraph(node.subgraph, node) }", host
    )
    d.rest(page, 500)


def leave(page):
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    d.rest(page, 300)


def hosts(page, host, name):
    return page.evaluate(
        "([id, name]) => app.rootGraph.getNodeById(id).widgets.find((w) => w.name === name).value", [host, name]
    )


def set_hosts(page, host, name, value):
    page.evaluate(
        """([id, name, value]) => {
          const widget = app.rootGraph.getNodeById(id).widgets.find((w) => w.name === name)
          widget.value = value
          widget.callback?.(value)
        }""",
        [host, name, value],
    )
    d.rest(page, 1600)  # a value that code sets has no event: the clock looks once a second, and then asks the server


def prompted(page, host, node):
    return d.prompt(page, f"{host}:{node}")


def test_promoted_weights_are_edited_where_they_are_kept(page, server, packed):
    host, desk, _ = packed
    assert d.shown(page, desk)["IN04"] == 0.2
    d.drag(page, desk, "OUT03", 0.5)
    d.settle(page)
    text = hosts(page, host, "weights")
    assert prompted(page, host, desk)["weights"] == text
    values = d.shown(page, desk)
    assert values == d.meaning(server, text, **SD15)
    assert values["IN04"] == 0.2
    assert values["OUT03"] == pytest.approx(0.5, abs=0.051)
    set_hosts(page, host, "weights", "IN5=0.7, default=1")
    assert d.shown(page, desk)["IN05"] == 0.7


def test_an_edit_of_promoted_weights_is_one_undo(page, packed):
    host, desk, _ = packed
    d.number_nodes(page, f"{host}:{desk}")
    d.drag(page, desk, "OUT03", 0.5)
    assert hosts(page, host, "weights") != "IN4=0.2, default=1"
    d.remember(page)  # any key or click does; what came after the edit would now be a step of its own
    d.undo(page)
    assert hosts(page, host, "weights") == "IN4=0.2, default=1"


def test_a_promoted_lora_is_followed(page, server, packed):
    host, desk, loader = packed
    set_hosts(page, host, "lora_name", "wan.safetensors")
    d.wait_for_lora(page, desk, "wan.safetensors")
    assert "B00" in d.shown(page, desk)
    assert d.element(page, loader).locator(".strata-verdict").text_content().startswith("Wan")


def test_a_promoted_strength_is_typed_beyond_its_slider(page, packed):
    host, _, loader = packed
    d.strength(page, loader, "strength_model").focus()
    page.keyboard.type("3.5")
    page.keyboard.press("Enter")
    d.rest(page, 300)
    assert hosts(page, host, "strength_model") == 3.5
    assert prompted(page, host, loader)["strength_model"] == 3.5
    reach = page.evaluate(
        "(id) => app.rootGraph.getNodeById(id).widgets.find((w) => w.name === 'strength_model').options.max", host
    )
    assert reach == 4


def test_promoted_values_survive_saving_and_loading(page, server, packed):
    host, desk, _ = packed
    d.drag(page, desk, "OUT03", 0.5)
    text = hosts(page, host, "weights")
    leave(page)
    page.evaluate(
        """async () => {
          const saved = JSON.parse(JSON.stringify(app.rootGraph.serialize()))
          await app.loadGraphData(saved, true, false, app.extensionManager.workflow.activeWorkflow)
        }"""
    )
    enter(page, host)
    d.wait_for_lora(page, desk, **SD15)
    assert hosts(page, host, "weights") == text
    assert d.shown(page, desk) == d.meaning(server, text, **SD15)


def test_a_subgraph_used_twice_is_not_edited_from_inside(page, packed):
    """Each use has its own weights: a desk inside cannot tell whose it would change."""
    host, desk, _ = packed
    leave(page)
    page.evaluate(
        """(id) => {
          app.canvas.selectNode(app.graph.getNodeById(id))
          app.canvas.copyToClipboard()
          app.canvas.pasteFromClipboard()
        }""",
        host,
    )
    # ComfyUI gives a pasted subgraph a definition of its own: make it a second use of the first.
    page.evaluate(
        """(id) => {
          const first = app.graph.getNodeById(id)
          for (const node of [...app.graph.nodes]) if (node.subgraph && node !== first) app.graph.remove(node)
          app.graph.add(LiteGraph.createNode(first.subgraph.id))
        }""",
        host,
    )
    enter(page, host)
    d.rest(page, 500)
    assert d.fader(page, desk, "IN04").get_attribute("aria-disabled") == "true"
    assert "wire" in d.element(page, desk).locator(".strata-note").first.text_content()


def test_a_desk_outside_finds_its_loader_inside(page, server):
    desk, loader = d.add_pair(page, **SD15)
    host, inner = page.evaluate(
        """(id) => {
          const { subgraph, node } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]))
          node.pos = [950, 120]
          return [String(node.id), String(subgraph.nodes[0].id)]
        }""",
        loader,
    )
    page.evaluate(
        """([host, inner]) => {
          const node = app.graph.getNodeById(host).subgraph.getNodeById(inner)
          const combo = node.widgets.find((w) => w.name === 'lora_name')
          combo.value = 'z-image.safetensors'
        }""",
        [host, inner],
    )
    d.wait_for_lora(page, desk, "z-image.safetensors")
    assert "CR0" in d.agree(page, server, desk, lora="z-image.safetensors")
