"""The paper's benchmarks: `grail-verl data`, `evaluate` and `compare`. Knows reward/ and credit/answer.

    data → problems → settings → ../model → validation (verl's, offline) or server (vLLM's, running)
         → results → bootstrap

Nothing here is imported by training.
"""
