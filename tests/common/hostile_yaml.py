"""Short YAML texts that stand for more values than memory holds."""

NINES = [(n, ", ".join([f"*k{n - 1}"] * 9)) for n in range(1, 30)]  # each line holds the line above nine times
ALIASES = "\n".join(["k0: &k0 [1, 2]", *(f"k{n}: &k{n} [{nine}]" for n, nine in NINES)])
MERGED = "\n".join(["k0: &k0 {a: 1}", *(f"k{n}: &k{n} {{<<: [{nine}]}}" for n, nine in NINES)])
