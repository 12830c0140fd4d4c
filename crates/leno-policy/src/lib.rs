//! Route matching and authorization: the evaluator that proxy, CLI and tests share.
