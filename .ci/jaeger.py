"""A real Jaeger with the configuration that ships, and what is asked of it. Shared by the runs that need one.

The binary is the one that JAEGER names, else the one that `.ci/run` builds.
"""

import contextlib
import os
import pathlib
import urllib.request

from stack import ROOT, TARGET, Failed, free_port, get, wait_for

JAEGER = pathlib.Path(os.environ.get("JAEGER", TARGET / "jaeger" / "jaeger"))


def jaeger_configuration(ports):
    """The shipped configuration on these ports of the loopback, without metrics of its own, whose port is fixed."""
    text = (ROOT / "deploy/jaeger/config.yaml").read_text()
    replacements = {
        "/etc/jaeger/ui.json": str(ROOT / "deploy/jaeger/ui.json"),
        "service:\n": "service:\n  telemetry:\n    metrics:\n      level: none\n",
        "0.0.0.0:13133": f"127.0.0.1:{ports['health']}",
        "0.0.0.0:4317": f"127.0.0.1:{ports['grpc']}",
        "0.0.0.0:4318": f"127.0.0.1:{ports['http']}",
    }
    for old, new in replacements.items():
        if old not in text:
            raise Failed(f"Jaeger's configuration has no {old!r} any more: this script must follow")
        text = text.replace(old, new)
    addresses = (
        f"    http:\n      endpoint: 127.0.0.1:{ports['query']}\n    grpc:\n      endpoint: 127.0.0.1:{ports['query_grpc']}\n"
    )
    return text.replace("  jaeger_query:\n", f"  jaeger_query:\n{addresses}")


def start_jaeger(processes, folder):
    """Its URL, and the variables that send spans there."""
    if not JAEGER.is_file():
        raise Failed(f"{JAEGER} is not there: name Jaeger's binary in JAEGER, or let .ci/run build it")
    ports = {name: free_port() for name in ["health", "grpc", "http", "query", "query_grpc"]}
    (folder / "jaeger.yaml").write_text(jaeger_configuration(ports))
    # Its spans of itself would go to the port that it usually listens on: it waits for them at its end.
    untraced = dict(os.environ, OTEL_TRACES_SAMPLER="always_off")
    processes.start("jaeger", [JAEGER, "--config", "jaeger.yaml"], env=untraced)
    jaeger = f"http://127.0.0.1:{ports['query']}"

    def ready():
        processes.check()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{jaeger}/api/services", timeout=2).close()
            return None
        return "an answer"

    wait_for("Jaeger is ready", ready)
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports['grpc']}",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    return jaeger, variables


def tag(span, key):
    return next((tag["value"] for tag in span["tags"] if tag["key"] == key), None)


def has_span(jaeger, trace_id, span_id):
    with contextlib.suppress(Failed):
        traces = get(f"{jaeger}/api/traces/{trace_id}")["data"] or []
        return any(span["spanID"] == span_id for trace in traces for span in trace["spans"])
    return False
