"""What a token gets: options, answers, scores and weights. The room where the method lives; knows torch and the manner
of transformers' causal language models, nothing of verl, Ray or files."""
