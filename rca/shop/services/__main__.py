"""Run one pod: `python -m rca.shop.services WORKLOAD`."""

from __future__ import annotations

import sys
import threading
from importlib import import_module

import uvicorn

from rca.errors import RcaError
from rca.shop.services import admin, instrumentation
from rca.shop.services.chaos import Chaos, fault_of
from rca.shop.services.kit import Kit, Service, application
from rca.shop.services.pod import Pod


def main(workload: str) -> None:
    """Serve until the process is ended. Raises RcaError where the environment or the release is wrong."""
    pod = Pod.from_environment(workload)
    chaos, ready = Chaos(), threading.Event()
    end = instrumentation.set_up(pod.release.version, lambda: chaos.skew_ns, export=bool(pod.otlp_endpoint))
    admin.serve(pod.admin_port, chaos, ready.is_set)
    kit = Kit(pod, chaos)
    service = service_of(kit)
    for name, parameters in pod.release.behaviour.items():
        chaos.start(fault_of({"fault": name, **parameters}))

    def begin() -> None:
        service.start()
        ready.set()

    app = application(kit, service.operations(), begin)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=pod.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run()
    end()


def service_of(kit: Kit) -> Service:
    """The service of the pod's workload: class `EmailWorker` of module `email_worker` for `email-worker`."""
    name = kit.pod.workload.name
    module = import_module(f"rca.shop.services.{name.replace('-', '_')}")
    service: Service = getattr(module, "".join(part.title() for part in name.split("-")))(kit)
    return service


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RcaError as error:
        sys.exit(str(error))
