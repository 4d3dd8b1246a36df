"""Control groups made up: the files in which the kernel says what a container may use."""

from videollava_cli import machine

FILES = {
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("", "memory.max", "memory.current", "inactive_file"),
}


def enter_container(root, monkeypatch, *, limit=None, used=0, page_cache=0, quota=None, version=2):
    """Have this process be in a group with these limits, in bytes and in processors; without any by default."""
    controller, limit_file, usage_file, cache_line = FILES[version]
    top = root / "sys/fs/cgroup" / controller
    group = top / "box/inner"
    for folder in (group, root / "proc/self"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(f"7:pids:/\n{4 if controller else 0}:{controller}:/box/inner\n")
    (group / limit_file).write_text("max\n" if version == 2 else f"{(1 << 63) - 4096}\n")
    (group / usage_file).write_text("4096\n")
    if limit is not None:
        (group.parent / limit_file).write_text(f"{limit}\n")
        (group.parent / usage_file).write_text(f"{used}\n")
        (group.parent / "memory.stat").write_text(f"anon 1\n{cache_line} {page_cache}\n")
    (top / "cpu.max").write_text(f"{int(quota * 100_000) if quota else 'max'} 100000\n")
    monkeypatch.setattr(machine, "ROOT", root)
