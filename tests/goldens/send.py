"""Sends the requests of requests.json one after the other, and normalises what comes back.

A request is {"name", "method", "path", ...} with, where wanted: "query"; "type" and "body" (an object, or a text as it
is); "accept"; "headers"; "keep": {"variable": "/pointer"} to take values out of the answer, written `{variable}` in
later paths, queries and bodies; "watch": true for one whose answer is a stream of events; "old": true for one that
asks for what is forgotten by then.

record.py does so with a real API server, compare.py with Leno.
"""

import json
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# What says when and by whom, or of which machine and build, and not what.
DROPPED = {"managedFields", "selfLink"}
REPLACED = {
    "resourceVersion": "VERSION", "continue": "CONTINUE", "clusterIP": "ADDRESS", "serverAddress": "ADDRESS",
}
BUILD = {"major", "minor", "emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor",
         "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"}


def at(value, pointer):
    for part in pointer.split("/")[1:]:
        value = value[int(part) if isinstance(value, list) else part]
    return value


def filled(value, kept):
    """`{variable}` in texts, at any depth."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: str(kept.get(found[1], found[0])), value)
    if isinstance(value, list):
        return [filled(item, kept) for item in value]
    if isinstance(value, dict):
        return {name: filled(item, kept) for name, item in value.items()}
    return value


def text(value, kept):
    for name, was in kept.items():
        if name.startswith("version") and was and "ersion" in value:
            value = re.sub(rf"\b{re.escape(was)}\b", "VERSION", value)
    value = re.sub(r"(resource version: )\d+( \(\d+\))?(, current: \d+)?", r"\1VERSION", value)
    return TIME.sub("TIME", UID.sub("UID", value))


def normal(value, kept, name=""):
    if name in BUILD and isinstance(value, str):
        return "BUILD"
    if name in REPLACED and isinstance(value, str) and value not in ("", "None"):
        return REPLACED[name]
    if name == "clusterIPs" and isinstance(value, list):
        return ["None" if item == "None" else "ADDRESS" for item in value]
    if isinstance(value, str):
        return text(value, kept)
    if isinstance(value, list):
        return [normal(item, kept) for item in value]
    if isinstance(value, dict):
        # An object's status is its controller's: there nobody's, here Leno's, as far as it has come.
        members = {key: normal(item, kept, key) for key, item in value.items()
                   if key not in DROPPED and not (key == "status" and isinstance(item, dict))}
        if value.get("kind") == "Table":
            members["rows"] = [rows(row, kept) for row in value.get("rows") or []]
        return members
    return value


def rows(row, kept):
    """A row's cells: ages and addresses are of the moment."""
    row = normal(row, kept)
    row["cells"] = ["AGE" if isinstance(cell, str) and re.fullmatch(r"\d+[smhd]|<unknown>", cell)
                    else "ADDRESS" if isinstance(cell, str) and re.fullmatch(r"\d+\.\d+\.\d+\.\d+", cell)
                    else cell for cell in row["cells"]]
    return row


def version(event):
    """That of an event's object."""
    found = event["object"]
    if found.get("kind") == "Table" and found.get("rows"):
        found = found["rows"][0].get("object") or found
    return int(found.get("metadata", {}).get("resourceVersion") or 0)


def steady(events, asked):
    """Events without what comes when it comes: bookmarks, and statuses told again of a version that was told."""
    told = []
    for event in events:
        metadata = event["object"].get("metadata", {})
        if event["type"] == "BOOKMARK" and "k8s.io/initial-events-end" not in metadata.get("annotations", {}):
            continue
        if event["type"] == "MODIFIED" and version(event) <= asked:
            continue
        asked = max(asked, version(event))
        told.append(event)
    return told


def one(send, request, kept):
    """One answer, as it is stored."""
    path, query = filled(request["path"], kept), filled(request.get("query", ""), kept)
    headers = {"Accept": request.get("accept", "application/json"), **request.get("headers", {})}
    body = filled(request.get("body"), kept)
    if body is not None:
        headers.setdefault("Content-Type", request.get("type", "application/json"))
        body = body if isinstance(body, str) else json.dumps(body)
    status, fields, raw = send(request["method"], path + ("?" + query if query else ""), headers, body)
    told = {"status": status}
    for field in ("Content-Type", "Retry-After"):
        values = [value for name, value in fields if name.lower() == field.lower()]
        if values:
            told[field.lower()] = values[0]
    warnings = [text(value, kept) for name, value in fields if name.lower() == "warning"]
    if warnings:
        told["warnings"] = warnings
    if request.get("watch") and status == 200:
        asked = re.search(r"resourceVersion=(\d+)", query)
        value = steady([json.loads(line) for line in raw.splitlines() if line], int(asked[1]) if asked else 0)
    else:
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw if raw.strip().isprintable() else "(no text)"
    for name, pointer in request.get("keep", {}).items():
        try:
            kept[name] = at(value, pointer)
        except (KeyError, IndexError, TypeError):
            raise SystemExit(f"{request['name']}: the answer has no {pointer}: {status} {raw[:1000]}")
    told["body"] = normal(value, kept)
    return told


def all_of(send, forget=lambda: None):
    """Sends them all. `forget` is called once before those that ask for what the server no longer knows."""
    with open(f"{HERE}/requests.json", encoding="utf-8") as file:
        requests = json.load(file)
    kept, answers = {}, {}
    for index, request in enumerate(requests):
        if request.get("old") and not requests[index - 1].get("old"):
            forget()
        answers[request["name"]] = one(send, request, kept)
    return answers
