"""Post-processing as params.yaml and a command's options configure it."""

from dataclasses import asdict, replace

from fcos.onnx_detector import OnnxDetector
from fcos.postprocess import Postprocess
from pipeline.errors import PipelineError
from pipeline.inference.saved_detector import SavedDetector
from pipeline.params import PostprocessParams, load_postprocess
from pipeline.workspace import workspace


def make_postprocess(params: PostprocessParams, **options: float | None) -> Postprocess:
    """The post-processing that the section `postprocess` of params.yaml describes.

    Args:
        options: fields of Postprocess that a command's options override; None keeps the value of params.yaml.
    """
    return _override(Postprocess(**asdict(params)), options)


def project_postprocess(**options: float | None) -> Postprocess:
    """The post-processing of the project that contains the current folder, overridden by options.

    Outside a project, and where its params.yaml has no section `postprocess`, the defaults apply.

    Args:
        options: as for `make_postprocess`.

    Raises:
        PipelineError: the section has an unknown key or an impossible value.
    """
    try:
        path = workspace() / "params.yaml"
    except PipelineError:  # not inside a project
        return _override(Postprocess(), options)
    params = load_postprocess(path) if path.is_file() else None
    return make_postprocess(params, **options) if params else _override(Postprocess(), options)


def postprocess_of(model: SavedDetector, **options: float | None) -> Postprocess:
    """The post-processing of a detector: that in its ONNX file, else the project's; overridden by options.

    Raises:
        PipelineError: as for `project_postprocess`.
    """
    if isinstance(model.detector, OnnxDetector):
        return _override(model.detector.metadata.postprocess, options)
    return project_postprocess(**options)


def _override(postprocess: Postprocess, options: dict[str, float | None]) -> Postprocess:
    given = {name: value for name, value in options.items() if value is not None}
    return replace(postprocess, **given)  # type: ignore[arg-type]
