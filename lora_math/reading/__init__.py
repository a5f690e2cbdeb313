"""From a file on the disk to adapters by module name: opening and checking it, key formats, headers, sidecars, what is refused by name."""
