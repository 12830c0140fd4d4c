#!/usr/bin/env python3
"""Sends the requests of requests.json to Leno and compares its answers with those of a real API server.

  tests/goldens/compare.py --socket DATA_DIR/admin.sock [--mesh default] [--write]

The mesh must be new, its control plane started with --watch-history=100. What differs must be in differences.json, place by place, under the reason why it may; what is
listed there and does not differ any more is a failure too, so that the list stays true. --write sorts what is found
under the reasons that are there, each by its pattern, the first that fits; what fits none is a failure until a person
has written a reason, or mended Leno.
"""

import argparse
import http.client
import json
import os
import re
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import send  # noqa: E402

ABSENT = "(absent)"


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def sender(path, mesh):
    def request(method, target, headers, body):
        connection = Connection(path)
        try:
            connection.request(method, f"/meshes/{mesh}{target}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read().decode(errors="replace")
        finally:
            connection.close()

    return request


def forget(request):
    """Lets the log of changes move past what is in it: the control plane runs with --watch-history=100."""
    items = [{
        "apiVersion": "leno.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": f"filler-{item}", "namespace": "default"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "nobody"}], "action": "Allow",
                 "rules": [{"from": [{"serviceAccounts": ["default/nobody"]}]}]},
    } for item in range(100)]
    status, _, body = request("POST", "/leno/v1/apply", {"Content-Type": "application/json"}, json.dumps({"items": items}))
    if status != 200:
        sys.exit(f"the log is not filled: {body}")


def differences(place, theirs, ours):
    """Every place where two values differ, the deepest that can be named."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted(theirs.keys() | ours.keys()):
            escaped = name.replace("~", "~0").replace("/", "~1")
            yield from differences(f"{place}/{escaped}", theirs.get(name, ABSENT), ours.get(name, ABSENT))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(theirs, ours)):
            yield from differences(f"{place}/{index}", one, other)
    elif theirs != ours or isinstance(theirs, bool) != isinstance(ours, bool):
        yield place, theirs, ours


def without_statuses(theirs, ours):
    """Leno's answer without the events by which a watch tells that a status alone has changed: a real API server has
    nobody here who writes statuses, and when ours come is a matter of time."""
    if not isinstance(theirs.get("body"), list) or not isinstance(ours.get("body"), list):
        return ours

    def of(event):
        meta = event.get("object", {}).get("metadata", {})
        return event.get("object", {}).get("kind"), meta.get("namespace"), meta.get("name")

    def written(event):
        return {name: value for name, value in event["object"].items() if name != "status"}

    named = {of(event) for event in theirs["body"]}
    events, last = [], {}
    for event in ours["body"]:
        is_status = event.get("type") == "MODIFIED" and "metadata" in event["object"] and (
            of(event) not in named or last.get(of(event)) == written(event))
        if not is_status:
            events.append(event)
            last[of(event)] = written(event) if isinstance(event.get("object"), dict) else None
    return {**ours, "body": events}


def load(name):
    with open(f"{HERE}/{name}", encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--mesh", default="default")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    request = sender(args.socket, args.mesh)
    theirs, ours = load("answers.json"), send.all_of(request, lambda: forget(request))
    if theirs.keys() != ours.keys():
        sys.exit("answers.json is of other requests: record anew")
    ours = {name: without_statuses(theirs[name], ours[name]) for name in ours}
    # [{"reason": why it may differ, "where": a pattern, "places": ["request/place"]}]
    groups = load("differences.json")
    found = {place: (one, other) for name in theirs
             for place, one, other in differences(name, theirs[name], ours[name])}
    if args.write:
        for group in groups:
            group["places"] = []
        for place in found:
            for group in groups:
                if re.search(group["where"], place):
                    group["places"].append(place)
                    break
        with open(f"{HERE}/differences.json", "w", encoding="utf-8") as file:
            json.dump(groups, file, indent=1, ensure_ascii=False)
            file.write("\n")
    known = {place for group in groups for place in group["places"]}
    failures = [f"differs without a reason: {place}\n  theirs {json.dumps(one)}\n  ours   {json.dumps(other)}"
                for place, (one, other) in found.items() if place not in known]
    failures += [f"is listed, but does not differ: {place}" for place in sorted(known) if place not in found]
    failures += [f"no reason is given for {group['where']}" for group in groups if not group["reason"]]
    failures += [f"nothing differs as listed: {group['where']}" for group in groups if not group["places"]]
    print("\n".join(failures))
    print(f"{len(theirs)} requests, {len(found)} differences for {len(groups)} reasons, {len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
