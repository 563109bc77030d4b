"""BERT: blocks that normalise what they add up."""

from keras_ptuning.models.names import dense, hugging_face, norm
from keras_ptuning.models.transformer import Transformer

_BLOCK = "bert/encoder/layer_{}"


class BERT(Transformer):
    """BERT, and what shares its body: RoBERTa-wwm, MacBERT, UER's, LERT, PERT.

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.
    """

    architecture = "bert"
    google = {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Position": ["bert/embeddings/position_embeddings"],
        "Embedding-Norm": norm("bert/embeddings"),
        "Embedding-Mapping": dense("bert/encoder/embedding_hidden_mapping_in"),
        "Transformer-{}-MultiHeadSelfAttention": [
            *dense(f"{_BLOCK}/attention/self/query"),
            *dense(f"{_BLOCK}/attention/self/key"),
            *dense(f"{_BLOCK}/attention/self/value"),
            *dense(f"{_BLOCK}/attention/output/dense"),
        ],
        "Transformer-{}-MultiHeadSelfAttention-Norm": norm(f"{_BLOCK}/attention/output"),
        "Transformer-{}-FeedForward": [
            *dense(f"{_BLOCK}/intermediate/dense"),
            *dense(f"{_BLOCK}/output/dense"),
        ],
        "Transformer-{}-FeedForward-Norm": norm(f"{_BLOCK}/output"),
        "Pooler-Dense": dense("bert/pooler/dense"),
        "MLM-Dense": dense("cls/predictions/transform/dense"),
        "MLM-Norm": norm("cls/predictions/transform"),
        "MLM-Bias": ["cls/predictions/output_bias"],
    }
    hugging_face = hugging_face(google)
    signs = ("position_embeddings",)

    def apply_embeddings(self, inputs, positions):
        """Token + segment + position, normalised."""
        x = self.embed_tokens(inputs)
        x = self.add_segments(x, inputs)
        x = self.add_positions(x, positions)
        x = self.norm("Embedding-Norm")(x)
        x = self.dropout("Embedding-Dropout", x)
        if self.embedding_size == self.hidden_size:
            return x
        return self.dense("Embedding-Mapping", None)(x)

    def apply_block(self, x, context, name):
        """Attention -> add -> norm -> feed-forward -> add -> norm."""
        half = f"{name}-MultiHeadSelfAttention"
        x = self.add(half, self.gather(x, context), self.attend(half, x, context))
        x = self.norm(f"{half}-Norm")(x)
        half = f"{name}-FeedForward"
        x = self.add(half, x, self.feed_forward(half)(x))
        return self.norm(f"{half}-Norm")(x)

    def apply_token_head(self, x):
        x = self.dense("MLM-Dense", self.head_act, self.embedding_size)(x)
        x = self.norm("MLM-Norm")(x)
        x = self.project_tokens(x)
        return self.token_bias()(x)
