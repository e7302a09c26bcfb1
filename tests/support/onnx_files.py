"""ONNX graphs written by hand."""


def node(op, inputs, output, domain="", **settings):
    """One operator with one output."""
    import onnx

    return onnx.helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", domain=domain, **settings)


def tensor(name, sizes):
    """A float32 input or output."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def graph(nodes, stored, shape, batch="n", outputs=("out",), opset=20):
    """A model from ``x [batch, *shape]`` to ``outputs``, with tensors by name."""
    import onnx

    made = onnx.helper.make_graph(
        list(nodes),
        "network",
        [tensor("x", [batch, *shape])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()],
    )
    sets = {"": opset, "com.foo": 1, "com.microsoft": 1}
    return onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid(*one) for one in sets.items()], ir_version=10
    )


def save(folder, model, name="network"):
    """The model's file."""
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path
