"""One file a stage: reads artifacts, writes one."""
