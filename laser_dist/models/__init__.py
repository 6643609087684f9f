"""The LASeR-JND models in Keras 3: backbones, heads and the six predictors made of them.

A backbone (`autoencoder`; `principal` starts it) knows no label, a head (`heads`) gets features and
knows no pixels, and a predictor (`variants`) is one or three backbones and a head. `complexity`
counts what they cost. Only `keras.layers` and `keras.ops` are used, so the models are not tied to
how they are trained.
"""
