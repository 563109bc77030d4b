"""Records what the prompt encoder of P-tuning computes in PyTorch, for `test_prompt_encoder.py`.

    pip install torch numpy && python tests/goldens/record_prompt_encoder.py

Writes `torch_prompt_encoder.npz` next to itself: the weights under PyTorch's names, an input, the
output of the LSTM and of all.
"""

import pathlib

import numpy as np

TOKENS, HIDDEN = 7, 12


def main():
    # Here, so that pytest can look for doctests in this file where there is no PyTorch.
    import torch

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(HIDDEN, HIDDEN // 2, num_layers=2, bidirectional=True, batch_first=True)
    mlp = torch.nn.Sequential(
        torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, HIDDEN)
    )
    module = torch.nn.ModuleDict({"lstm": lstm, "mlp": mlp})
    inputs = torch.randn(TOKENS, HIDDEN)
    with torch.no_grad():
        for weight in module.parameters():
            # Larger than PyTorch's own, so that the gates matter.
            weight.copy_(torch.randn_like(weight))
        sequence = lstm(inputs[None])[0][0]
        outputs = mlp(sequence)
    np.savez_compressed(
        pathlib.Path(__file__).resolve().parent / "torch_prompt_encoder.npz",
        inputs=inputs.numpy(),
        sequence=sequence.numpy(),
        outputs=outputs.numpy(),
        **{name: weight.numpy() for name, weight in module.state_dict().items()},
    )


if __name__ == "__main__":
    main()
