"""Share: files out and in, domains from the Hub, and to one's own account there."""

from __future__ import annotations

import gradio as gr

from ..handlers.share_handlers import LICENCES, ShareHandlers, may_push
from ..page import HIDDEN, Page, token_file


NO_PUSH = "Only a Space can push for you. Here, download the file; `refinestyle push` uploads it from your machine."


def build(page: Page, on: ShareHandlers, tab: gr.Tab, tabs: gr.Tabs) -> None:
    """The layout."""
    gr.Markdown("### Take it with you\nA session ends with its page, also when that is loaded anew. Files stay.")
    what = gr.Dropdown([], label="What", info="The face, or a domain.", interactive=True, elem_id="what")
    with gr.Row():
        save = gr.DownloadButton("Download .safetensors", interactive=False, elem_id="export-file")
        remove = gr.Button("Remove the domain", min_width=120, elem_id="remove")
    gr.Markdown("### Bring it back\nA face or a domain that was made with this generator, by you or by others.")
    file = token_file(height=120, label="A .safetensors file", elem_id="bring")
    with gr.Row():
        hub_id = gr.Textbox(
            label="Or a domain on the Hub", placeholder="owner/name", max_length=200, scale=3,
            info="Read as anybody could read it.", elem_id="hub-id",
        )  # fmt: skip
        load = gr.Button("Load", min_width=100, scale=1, elem_id="load-id")
    note = gr.Markdown("", elem_id="share-note")
    gr.Markdown("### To your own account on the Hub")
    if may_push():
        _push(page, on, what)
    else:
        gr.Markdown(NO_PUSH, elem_id="no-push")

    tab.select(on.enter, [page.session], [what, save], **page.hidden("cpu"))
    what.change(on.offer, [what, page.session], [save], **page.hidden("cpu"))
    removed = remove.click(on.remove, [what, page.session], [note], **HIDDEN)
    brought = file.upload(on.load_file, [file, page.session], [note], **page.line("draw", show_progress_on=[note]))
    for ended in (brought.success, brought.failure):
        ended(lambda: None, None, [file], **HIDDEN)  # ready for another
    loaded = load.click(on.load_id, [hub_id, page.session], [note], **page.line("hub", show_progress_on=[note]))
    for changed in (removed, brought, loaded):
        changed.success(on.enter, [page.session], [what, save], **page.hidden("cpu"))
        page.show(changed)
    page.demo.load(on.link, None, [hub_id, tabs], **HIDDEN)


def _push(page: Page, on: ShareHandlers, what: gr.Dropdown) -> None:
    gr.Markdown("The domain chosen above. Make or load it after signing in: signing in opens the page anew.")
    gr.LoginButton(elem_id="login")
    with gr.Row():
        licence = gr.Dropdown(LICENCES, value="cc-by-4.0", label="Licence", elem_id="licence")
        public = gr.Checkbox(False, label="Public", info="Otherwise only you see it.", elem_id="public")
        preview = gr.Checkbox(False, label="With a preview", info="Never of you.", elem_id="with-preview")
    push = gr.Button("Push", elem_id="push")
    result = gr.Markdown(elem_id="push-note")
    push.click(on.push, [what, licence, public, preview, page.session], [result], **page.line("hub"))
