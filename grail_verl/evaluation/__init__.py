"""The paper's benchmarks: `grail-verl data`, `grail-verl evaluate` and `grail-verl compare`. Knows reward/, credit/answer.

    data → problems → settings → ../model → validation (verl's, offline) or server (vLLM's, running)
         → results → bootstrap

Nothing here is imported by training.
"""
