"""Reads a scrape as Prometheus' own client library does, and holds it to the rules that promtool has for names."""

import sys

from prometheus_client import parser


def main(form, path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if form == "openmetrics":
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
    else:
        read = parser.text_string_to_metric_families
    families = list(read(text))
    assert len(families) > 15, len(families)
    for family in families:
        assert family.name.startswith("agentcore_"), family.name
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), (family.name, family.type)
        for unit in ("_ms", "_milliseconds", "_kilobytes"):
            assert unit not in family.name, family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name
            for label, value in sample.labels.items():
                assert label.islower() and len(value) < 100, sample
        if family.type == "histogram" and family.samples:
            buckets, counts = {}, {}
            for sample in family.samples:
                labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                if sample.name.endswith("_bucket"):
                    buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
                if sample.name.endswith("_count"):
                    counts[labels] = sample.value
            assert buckets.keys() == counts.keys(), family.name
            for labels, found in buckets.items():
                assert found == sorted(found), family.name
                assert [count for _, count in found] == sorted(count for _, count in found), family.name
                assert found[-1] == (float("inf"), counts[labels]), family.name
    print(" ".join(family.name for family in families))


main(*sys.argv[1:])
