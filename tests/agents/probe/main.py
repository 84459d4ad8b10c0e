"""The probe agent: runs the security bar's in-session probes and answers with their verdicts.

    {"run": ["F01", "P02.*"] | "all", "canaries": {…}, "limits": {…}, "profile": "pid"|"masked", "strict": true}
    {"plant": {"tag": "…", "secret": "…"}}      leave things in this session for another one to hunt
    {"hunt": {"peer": {…what plant answered, and what the harness knows…}}}
    {"list": true}                              every id with its line of the catalogue

Executed with arguments it is a command instead (`agentcore exec -s S -- python3 /app/main.py --run K01 'P02.*'`), which
probes a *joined* process and not the agent; canaries come as JSON on stdin where `--canaries -` is given.
"""

import at_start  # before everything else: it reads what was inherited

import argparse
import json
import sys

import catalogue
import plant
import runner


def answer(payload):
    """One payload, one answer; a misuse is an answer too, so that it shows in the test's output."""
    at_start.settle()
    if not isinstance(payload, dict):
        return {"error": "the payload must be an object"}
    try:
        if "run" in payload:
            return runner.run(
                payload["run"], payload.get("canaries"), payload.get("limits"), payload.get("profile", "pid"),
                payload.get("strict", False),
            )
        if "plant" in payload:
            return {"planted": plant.plant(**payload["plant"])}
        if "hunt" in payload:
            return runner.run(
                ["Y*"], {"peer": payload["hunt"]["peer"]}, payload.get("limits"), strict=payload.get("strict", False),
            )
        if "list" in payload:
            return {"catalogue": catalogue.lines()}
    except runner.NotInASession as fault:
        return {"error": str(fault)}
    return {"error": f"nothing to do in {sorted(payload)}; known are run, plant, hunt, list"}


def command(arguments):
    parser = argparse.ArgumentParser(prog="probe", description="run the probes in this very process's place")
    parser.add_argument("--run", nargs="+", metavar="ID")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--canaries", choices=["-"], help="read {canaries, limits, profile, strict} from stdin")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(catalogue.lines()))
        return 0
    payload = json.load(sys.stdin) if given.canaries else {}
    result = answer({**payload, "run": "all" if given.run == ["all"] else given.run or []})
    print(json.dumps(result, ensure_ascii=False))
    return 0 if result.get("counts", {}).get("FAIL") == 0 else 1


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(command(sys.argv[1:]))

    from bedrock_agentcore import BedrockAgentCoreApp

    app = BedrockAgentCoreApp()

    @app.entrypoint
    def invoke(payload, context):
        return answer(payload)

    app.run()
