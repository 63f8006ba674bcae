"""A run over two hosts, here two network namespaces that share nothing but a wire and the disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

TEST = ["test", "--attack", "square", "--data.num_images", "30", "--model.budget", "40", "--model.batch_size", "4"]
HOSTS = {"rfdlight-a": "10.203.7.1", "rfdlight-b": "10.203.7.2"}
LIMIT = 300
"""Seconds for both."""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two hosts with a wire between them."""
    if shutil.which("ip") is None or ip("netns", "add", "rfdlight-a").returncode:
        pytest.skip("network namespaces need the command ip and the rights to make them")
    try:
        ip("netns", "add", "rfdlight-b")
        peer = ("peer", "name", "wire-b", "netns", "rfdlight-b")
        assert ip("link", "add", "wire-a", "netns", "rfdlight-a", "type", "veth", *peer).returncode == 0
        for (host, address), wire in zip(HOSTS.items(), ("wire-a", "wire-b"), strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", wire)
            for device in ("lo", wire):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


def start(number: int, host: str, run: Path) -> subprocess.Popen[str]:
    """Start torchrun on a host, with two processes."""
    line = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank",
        str(number), "--nproc-per-node", "2", "--master-addr", HOSTS["rfdlight-a"], "--master-port", "29531", "-m",
        "--", "rfdlight", *TEST, "--run", str(run),
    ]  # fmt: skip
    environment = os.environ | {"GLOO_SOCKET_IFNAME": f"wire-{host[-1]}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_hosts_write_the_records_of_one_process(hosts, tmp_path):
    alone = [sys.executable, "-m", "rfdlight", *TEST, "--run", str(tmp_path / "whole")]
    assert subprocess.run(alone, stdout=subprocess.DEVNULL).returncode == 0
    processes = [start(number, host, tmp_path / "run") for number, host in enumerate(HOSTS)]
    said = [process.communicate(timeout=LIMIT) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert (tmp_path / "run/records.jsonl").read_bytes() == (tmp_path / "whole/records.jsonl").read_bytes()
    parts = sorted((tmp_path / "run/journal").glob("0-*.jsonl"))
    assert len(parts) == 4
    assert "attack   square" in said[0][0]
    assert "attack   square" not in said[1][0]
