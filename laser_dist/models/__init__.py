"""The LASeR-JND models in Keras 3: backbones, heads and the six predictors built from them.

- `specs`, `variants`: sizes and combinations as plain data; `complexity`: their costs.
- `autoencoder`: the backbone; `principal`: its initialization.
- `heads`, `layers`: from features to JND levels.
- `predictors`: backbones and heads in one model; `predictor_spec`: what its output means.
- `published`, `weight_files`: the authors' published weights.

A backbone has no labels, and a head gets features instead of pixels. Only `keras.layers` and
`keras.ops` are used, so the models do not depend on how they are trained.
"""
