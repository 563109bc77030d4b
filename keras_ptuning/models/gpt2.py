"""GPT-2, as its difference from BERT."""

from keras_ptuning.models.bert import BERT


class GPT2(BERT):
    """Builds a GPT-2 as a functional Keras model, with bert4keras's layer names.

    Each block normalises what goes into its halves, and `Output-Norm` what comes out of the last.
    Tokens have no segments and see only what came before them. The head that predicts tokens is
    the token embedding and nothing else.

    Id 0 is padding, as in Chinese GPT-2s over BERT's vocabulary. In OpenAI's vocabulary it is the
    exclamation mark, which this model would not see.
    """

    weight_table = "gpt2"
    input_names = ("Input-Token",)
    norm_epsilon = 1e-5
    always_causal = True

    def apply_embeddings(self, inputs, positions):
        """Token + position."""
        x = self.token_embedding()(inputs["Input-Token"])
        x = self.add_positions(x, positions)
        return self.dropout("Embedding-Dropout", x)

    def apply_block(self, x, context, prefix):
        """Norm -> attention -> add -> norm -> feed-forward -> add."""
        name = f"{prefix}-MultiHeadSelfAttention"
        y = self.norm(f"{name}-Norm")(x)
        x = self.add(name, self.gather(x, context), self.attention(name)(y, **context))
        name = f"{prefix}-FeedForward"
        y = self.norm(f"{name}-Norm")(x)
        return self.add(name, x, self.feed_forward(name)(y))

    def apply_heads(self, x, inputs):
        """The sequence, normalised, or what follows each token."""
        if self.with_pool:
            raise ValueError(
                "A GPT-2 has no pooler: leave out `with_pool`. Received: "
                f"with_pool={self.with_pool!r}."
            )
        return super().apply_heads(self.norm("Output-Norm")(x), inputs)

    def apply_token_head(self, x):
        return self.token_embedding()(x, reverse=True)
