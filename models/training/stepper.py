"""What a training step reads and changes: weights, their average, optimiser and loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.training_data import UNKNOWN
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.images import Images, in_order, seed_of
from tidegate.models.training.losses import Loss
from tidegate.models.training.network import Network
from tidegate.models.training.recipe import Stage
from tidegate.models.training.schedule import rate_at
from tidegate.models.training.transfer import Lesson, Transfer

Mix = Callable[[Any, Any], tuple[Any, Any]]
_PLACE = 4  # among the seeds
_LARGER_BATCH = 4  # times, where no gradients are kept


class Stepper:
    """The state of one stage. A step's random numbers depend on the seed and its number alone."""

    def __init__(
        self,
        network: Network,
        stage: Stage,
        counts: Sequence[int],
        config: TrainConfig,
        *,
        place: int,  # of the stage
        steps: int,  # in the stage, at most
        mix: Mix | None,
        device: str,
        lesson: Lesson | None = None,
    ) -> None:
        self._torch = require("torch")
        # Depthwise convolutions train twice as fast so on a CPU; dense ones as fast as before.
        layout = self._torch.channels_last
        self._network, self._device = network, device
        self._module = network.module.to(device, memory_format=layout)
        self._config, self._place, self._steps = config, place, steps
        self._mix = mix if stage.mixing else None
        self._stage = stage
        network.prepare(stage)
        chosen = config.optimisation
        self._optimiser = network.optimiser(stage, chosen)
        self._transfer = None
        if lesson is not None:
            self._transfer = Transfer(
                lesson, network, head_only=stage.head_only, device=device, config=config
            )
            network.prepare(stage)
            if self._transfer.parameters:
                self._optimiser.add_param_group({"params": self._transfer.parameters})
        self._average = None
        if chosen.average:
            self._average = require("timm.utils").ModelEmaV3(
                self._module, decay=chosen.average, use_warmup=True
            )
        imbalance = config.imbalance.model_copy(
            update={"loss": stage.loss, "sampling": stage.sampling}
        )
        self._loss = Loss(counts, imbalance, chosen.label_smoothing, device)
        half = device == "cuda" and not self._torch.cuda.is_bf16_supported()
        self._half_type = self._torch.float16 if half else self._torch.bfloat16
        self._scaler = self._torch.amp.GradScaler(device, enabled=half)
        self.rate = 0.0

    def step(self, number: int, batches: Iterable[tuple[Any, Any]], images: int) -> float:
        """Update the weights once, by batches of together `images` images.

        Returns the sum of their losses.
        """
        chosen = self._config.optimisation
        self.rate = chosen.rate * rate_at(number, self._steps, chosen.schedule, chosen.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate * group.get("lr_scale", 1.0)
        total = 0.0
        for index, (inputs, class_ids) in enumerate(batches):
            seed = seed_of(self._config.seed, _PLACE, self._place, number, index)
            self._torch.manual_seed(seed)  # of dropout and of mixing
            loss = self._forward(inputs.to(self._device), class_ids.to(self._device))
            self._scaler.scale(loss * (len(inputs) / images)).backward()
            total += float(loss.detach()) * len(inputs)
        self._update()
        if self._average is not None:
            self._average.update(self._module, step=number + 1)
        return total

    def _forward(self, inputs: Any, class_ids: Any) -> Any:
        targets = self._targets(class_ids)
        if self._mix is not None:
            inputs, targets = self._mix(inputs, targets)
        if self._transfer is None:
            return self._loss(self._run(inputs), targets)
        return self._transfer.loss(inputs, self._run, lambda logits: self._loss(logits, targets))

    def _targets(self, class_ids: Any) -> Any:
        """Return the classes as rows [B, classes], zero for an image without a class."""
        rows = self._torch.nn.functional.one_hot(class_ids.clamp(min=0), self._module.num_classes)
        return rows.float() * (class_ids != UNKNOWN)[:, None]

    def _run(self, inputs: Any) -> Any:
        with self._mixed_precision():
            return self._module(inputs)

    def _update(self) -> None:
        trained = [p for group in self._optimiser.param_groups for p in group["params"]]
        if most := self._config.optimisation.clip:
            self._scaler.unscale_(self._optimiser)
            self._torch.nn.utils.clip_grad_norm_(trained, most)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)

    def outputs(self, images: Images, workers: int) -> NDArray[np.float32]:
        """Return the logits of the averaged network for every image, in order, [n, classes]."""
        module = (self._average.module if self._average is not None else self._module).eval()
        batch = _LARGER_BATCH * self._config.optimisation.batch
        with self._torch.inference_mode(), self._mixed_precision():
            parts = [
                module(inputs.to(self._device)).float().cpu().numpy()
                for inputs, _ in in_order(images, batch, workers)
            ]
        self._network.prepare(self._stage)
        return np.concatenate(parts)

    def weights(self) -> Mapping[str, Any]:
        """Return the averaged weights."""
        module = self._average.module if self._average is not None else self._module
        weights: Mapping[str, Any] = module.state_dict()
        return weights

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on."""
        return {
            "weights": self._module.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "transfer": None if self._transfer is None else self._transfer.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._module.load_state_dict(state["weights"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        if self._transfer is not None:
            self._transfer.restore(state["transfer"])

    def _mixed_precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._device == "cpu":
            return contextlib.nullcontext()
        found: contextlib.AbstractContextManager[Any] = self._torch.autocast(
            self._device, self._half_type
        )
        return found
