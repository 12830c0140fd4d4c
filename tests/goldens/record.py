#!/usr/bin/env python3
"""Records what a real API server of Kubernetes answers to the requests of requests.json.

Run by hand, rarely: when requests are added, or for a newer Kubernetes. It starts etcd and kube-apiserver on loopback
with state and certificates of their own, which end and vanish with it, installs the definition of HTTPRoute (Gateway
API, its standard channel), sends every request in order and writes the normalised answers to answers.json:

  tests/goldens/record.py --apiserver PATH --etcd PATH --crd gateway.networking.k8s.io_httproutes.yaml

What differs from run to run is replaced where it stands: uids, times, versions, addresses (send.py). etcd must be 3.5
or later: with an earlier one the API server has no initial events for watches. Needs Python 3.9, openssl and PyYAML.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN = "recorder"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """One etcd and one kube-apiserver."""

    def __init__(self, args, state):
        self.processes = []
        self.state = state
        etcd, peer, self.port = free_port(), free_port(), free_port()
        self.start("etcd", [
            args.etcd, "--data-dir", f"{state}/etcd", "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}",
        ])
        key = f"{state}/accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        with open(f"{state}/tokens", "w", encoding="utf-8") as file:
            file.write(f"{TOKEN},admin,admin,system:masters\n")
        self.start("kube-apiserver", [
            args.apiserver, "--bind-address", "127.0.0.1", "--secure-port", str(self.port), "--cert-dir", f"{state}/tls",
            "--etcd-servers", f"http://127.0.0.1:{etcd}", "--authorization-mode", "AlwaysAllow",
            "--token-auth-file", f"{state}/tokens", "--service-cluster-ip-range", "10.0.0.0/16",
            "--service-account-issuer", "https://recorder.invalid", "--service-account-key-file", key,
            "--service-account-signing-key-file", key, "--endpoint-reconciler-type", "none",
            "--disable-admission-plugins", "ServiceAccount",
        ])

    def start(self, name, command):
        log = open(f"{self.state}/{name}.log", "wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def request(self, method, path, headers=None, body=None, timeout=30):
        """The status, the header fields, the body."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read().decode(errors="replace")
        finally:
            connection.close()

    def wait(self, path, within=120):
        end = time.monotonic() + within
        while True:
            try:
                status, _, body = self.request("GET", path, timeout=5)
                if status == 200:
                    return
            except OSError as error:
                status, body = 0, error
            if time.monotonic() > end or any(process.poll() is not None for process in self.processes):
                sys.exit(f"{path} is not served: {status} {body}; logs are in {self.state}")
            time.sleep(0.2)

    def stop(self):
        # By force, the last first: an API server whose etcd is gone ends no sooner than its patience.
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def installed(server, path):
    """Installs the definition of a kind."""
    import yaml

    with open(path, encoding="utf-8") as file:
        definition = yaml.safe_load(file)
    definition["metadata"].pop("creationTimestamp", None)
    status, _, body = server.request(
        "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {"Content-Type": "application/json"}, json.dumps(definition))
    if status != 201:
        sys.exit(f"the definition is refused: {body}")
    spec = definition["spec"]
    server.wait(f"/apis/{spec['group']}/v1/{spec['names']['plural']}")
    # Discovery of groups, and validation by the schema, follow a moment later.
    server.wait(f"/apis/{spec['group']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("apiserver", "etcd", "crd"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    sys.path.insert(0, HERE)
    import send

    with tempfile.TemporaryDirectory() as state:
        server = Server(args, state)
        try:
            server.wait("/readyz")
            installed(server, args.crd)
            answers = send.all_of(server.request)
        finally:
            server.stop()
    with open(f"{HERE}/answers.json", "w", encoding="utf-8") as file:
        json.dump(answers, file, indent=1, ensure_ascii=False)
        file.write("\n")
    print(f"{len(answers)} answers")


if __name__ == "__main__":
    main()
