"""Scrapes a target as Prometheus would and reads what came with its own client library: `prometheus_scrape.py URL`.

Prints one JSON list of samples: `{"name", "labels", "value", "type"}`. Fails where Prometheus would, and where it would be
right to: a family or a sample that stands there twice, a family without help, a histogram that does not add up.
"""
import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[1], timeout=10) as response:
    kind = response.headers["content-type"]
    assert kind.startswith("text/plain") and "version=0.0.4" in kind, kind
    text = response.read().decode()

families, seen, out, histograms = set(), set(), [], {}
for family in text_string_to_metric_families(text):
    assert family.name not in families, f"{family.name} is there twice"
    assert family.documentation, f"{family.name} has no help"
    assert family.type != "unknown", f"{family.name} has no type"
    families.add(family.name)
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, f"{key} is there twice"
        seen.add(key)
        out.append({"name": sample.name, "labels": sample.labels, "value": sample.value, "type": family.type})
        if family.type == "histogram":
            labels = dict(sample.labels)
            end = labels.pop("le", None)
            of = histograms.setdefault((family.name, tuple(sorted(labels.items()))), {"buckets": []})
            if end is None:
                of[sample.name.removeprefix(family.name)] = sample.value
            else:
                of["buckets"].append((float(end), sample.value))
for name, of in histograms.items():
    buckets = of["buckets"]
    assert buckets == sorted(buckets), f"{name}: {buckets}"
    assert [count for _, count in buckets] == sorted(count for _, count in buckets), f"{name}: {buckets}"
    assert buckets[-1] == (float("inf"), of["_count"]), f"{name}: {of}"
    assert "_sum" in of, f"{name}: {of}"
print(json.dumps(out))
