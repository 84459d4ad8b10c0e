"""Works for a while, says how far it is, and goes on where an earlier attempt was.

agentcore invoke --async --retries 2 '{"pages": 20, "seconds": 1}'
"""

import time

from bedrock_agentcore import BedrockAgentCoreApp, RequestContext

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload: dict[str, object], context: RequestContext) -> dict[str, object]:
    pages = int(str(payload.get("pages", 10)))
    seconds = float(str(payload.get("seconds", 0.5)))
    begun = context.checkpoint or {"page": 0, "words": 0}
    page, words = int(begun["page"]), int(begun["words"])
    while page < pages:
        time.sleep(seconds)  # the work
        page, words = page + 1, words + 250
        app.report_progress(page / pages, f"page {page} of {pages}", checkpoint={"page": page, "words": words})
    return {"pages": pages, "words": words, "attempt": context.attempt, "went_on_from": begun["page"]}


if __name__ == "__main__":
    app.run()
