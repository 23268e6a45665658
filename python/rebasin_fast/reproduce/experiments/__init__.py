"""The paper's experiments, one short definition each."""
