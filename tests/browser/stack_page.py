"""What a person does with a LoRA Stack and with the picker, as functions of a Playwright page."""

import desk_page as d

VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_rows')?.element)"


def stack(page, rows="", at=(420, 120), width=420, wait=True):
    """A LoRA Stack with these rows, by id."""
    node = d.add(page, "StrataLoraStack", at, rows=rows)
    page.evaluate(
        "([id, width]) => { const node = app.graph.getNodeById(id); node.setSize([width, node.size[1]]) }",
        [node, width],
    )
    d.remember(page)
    if wait:
        if rows.strip():
            # A row that comes while something is pressed moves it away from under the pointer.
            page.wait_for_function(f"(id) => {VIEW}(id).querySelector('.strata-lora')", arg=node, timeout=d.READY)
        page.wait_for_timeout(500)
    return node


def element(page, node):
    page.evaluate(
        f"""(id) => {{
          document.querySelectorAll('[data-test-node]').forEach((other) => other.removeAttribute('data-test-node'))
          const shown = {VIEW}(id)
          shown.dataset.testNode = id
        }}""",
        node,
    )
    return page.locator(f"[data-test-node='{node}']")


def text(page, node):
    return page.evaluate("(id) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'rows').value", node)


def row(page, node, at):
    return element(page, node).locator(".strata-lora").nth(at)


def act(page, node, name):
    return element(page, node).locator(f".strata-bar [data-act={name}]")


def menu(page, node, at, item):
    """Chooses from a row's menu."""
    row(page, node, at).locator(".strata-dots").click()
    page.locator(".strata-free .strata-item", has_text=item).first.click()
    page.wait_for_timeout(250)


def bar(page, node, at, which=0):
    return row(page, node, at).locator(".strata-strength-bar:visible").nth(which)


def sent(page, node):
    return d.prompt(page, node)["rows"]
