"""A LoRA Stack wherever ComfyUI takes it: a subgraph and out of it, App mode, the other renderer, a queued batch."""

import desk_page as d
import pytest
import stack_page as s

pytestmark = pytest.mark.browser

ROWS = "<lora:sd15:0.8>\noff <lora:flux:0.5> // later"


def test_rows_that_a_subgraph_shows_on_its_own_node_are_edited_from_inside_and_come_out_again(page):
    outer = s.stack(page, ROWS)
    host, node = page.evaluate(
        """(id) => {
          const { subgraph, node } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]))
          const inner = subgraph.nodes[0]
          const slot = inner.inputs.find((input) => input.name === 'rows')
          subgraph.addInput('rows', String(slot.type)).connect(slot, inner)
          return [String(node.id), String(inner.id)]
        }""",
        outer,
    )
    hosts = "(id) => app.rootGraph.getNodeById(id).widgets.find((w) => w.name === 'rows').value"
    page.evaluate(
        "(id) => { const node = app.rootGraph.getNodeById(id); app.canvas.openSubgraph(node.subgraph, node) }", host
    )
    d.rest(page, 700)
    try:
        assert s.row(page, node, 0).locator(".strata-short").text_content() == "sd15"
        s.row(page, node, 1).locator(".strata-switch").click()
        d.rest(page, 300)
        changed = ROWS.replace("off <lora:flux", "<lora:flux")
        assert page.evaluate(hosts, host) == changed
        assert d.prompt(page, f"{host}:{node}")["rows"].startswith("<lora:sd15:0.8>\n<lora:flux:0.5>")
    finally:
        page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
        d.rest(page, 300)
    page.evaluate("(id) => { const node = app.graph.getNodeById(id); app.graph.unpackSubgraph(node) }", host)
    d.rest(page, 700)
    node = page.evaluate("() => String(app.graph.nodes.find((node) => node.type === 'StrataLoraStack').id)")
    # Older editors unpack what is inside, and leave behind what the subgraph's own node said, for every node's widgets.
    text = s.text(page, node)
    assert text in (ROWS, changed)
    assert s.element(page, node).locator(".strata-lora").count() == 2
    s.bar(page, node, 0).focus()
    page.keyboard.press("ArrowRight")
    assert s.text(page, node) == text.replace("0.8", "0.85")


def test_the_other_renderer_shows_the_same_rows_at_once(page):
    node = s.stack(page, ROWS)
    before = d.renderer(page)
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", before == "canvas")
    d.rest(page, 1200)
    try:
        assert d.renderer(page) != before
        assert s.element(page, node).locator(".strata-short").all_text_contents() == ["sd15", "flux"]
        s.row(page, node, 0).locator(".strata-switch").click()
        assert s.text(page, node) == f"off {ROWS}"
        box, inner = s.element(page, node).bounding_box(), s.row(page, node, 1).bounding_box()
        assert inner["y"] + inner["height"] <= box["y"] + box["height"] + 1
    finally:
        page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", before == "vue")
        d.rest(page, 600)


def test_an_app_can_show_the_rows(page):
    node = s.stack(page, ROWS)
    preview = d.add(page, "PreviewAny", (1300, 120))
    page.evaluate(
        """([id, preview]) => {
          const store = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('appMode')
          const node = app.graph.getNodeById(id)
          node.connect(5, app.graph.getNodeById(preview), 0)
          store.selectedInputs.push([node.widgets.find((w) => w.name === 'strata_rows').widgetId, 'strata_rows', undefined])
          store.selectedOutputs.push(app.graph.getNodeById(preview).id)
          app.extensionManager.workflow.activeWorkflow.activeMode = 'app'
        }""",
        [node, preview],
    )
    try:
        page.locator("[data-testid=builder-widget-label]").first.wait_for()
        d.rest(page, 800)
        rows = page.locator("[data-testid=linear-widgets] .strata-lora")
        assert rows.count() == 2
        panel = page.locator("[data-testid=linear-widgets]").bounding_box()
        for at in (0, 1):
            box = rows.nth(at).bounding_box()
            assert panel["x"] <= box["x"]
            assert box["x"] + box["width"] <= panel["x"] + panel["width"]
        rows.nth(1).locator(".strata-switch").click()
        d.rest(page, 300)
        assert s.text(page, node) == ROWS.replace("off <lora:flux", "<lora:flux")
        page.screenshot(path=d.SCREENS / f"stack-app-{d.renderer(page)}.png")
    finally:
        page.evaluate("() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'graph' }")
        d.rest(page, 500)


def test_a_queued_batch_picks_by_a_seed_of_its_own_each_time_and_says_what(page, server):
    node = s.stack(page, "pick <lora:**:0.5>\n<lora:sd15:1>")
    page.evaluate(
        """(id) => {
          const node = app.graph.getNodeById(id), preview = LiteGraph.createNode('PreviewAny')
          app.graph.add(preview)
          preview.pos = [900, 120]
          node.connect(5, preview, 0)
          const set = (name, value) => { node.widgets.find((w) => w.name === name).value = value }
          set('seed', 11)
          // Older editors call it by its value.
          node.widgets.find((w) => ['fixed', 'control_after_generate'].includes(w.name)).value = 'increment'
        }""",
        node,
    )
    before = set(server.get_json("/history"))
    page.evaluate("async () => { await app.queuePrompt(0, 3) }")

    def ran():
        found = {key: one for key, one in server.get_json("/history").items() if key not in before}
        return [one for one in found.values() if one.get("status", {}).get("completed")]

    for _ in range(120):
        if len(ran()) == 3:
            break
        d.rest(page, 250)
    runs = {entry["prompt"][2][node]["inputs"]["seed"]: entry["outputs"][node] for entry in ran()}
    assert sorted(runs) == [11, 12, 13]
    for seed, told in runs.items():
        picked, fixed = told["strata_used"][0].split(" ")[0], told["strata_used"][0].split(" ")[-1]
        assert fixed == "<lora:sd15:1>"
        name = picked.removeprefix("<lora:").removesuffix(":0.5>")
        assert f"Picked by seed {seed}: " in told["strata_report"][0]
        assert f"{name}.safetensors" in told["strata_report"][0]
