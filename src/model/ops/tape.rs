//! What the backward needs of a forward: the operations in order, each with the closure that passes a gradient on.
//!
//! candle's own backward begins every gradient with zeros, adds to them out of place, and does so on threads that spin beside
//! ours. Here a gradient that has one source is moved, and what an operation holds is freed as soon as it was passed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, TensorId, bail};
use rayon::prelude::*;

use super::view;

/// The gradients of an operation's inputs, in their order.
pub(crate) type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>>>;

struct Node {
    output: TensorId,
    inputs: Vec<TensorId>,
    backward: Backward,
}

/// The operations that lead from watched tensors to a result.
#[derive(Default)]
pub(crate) struct Tape {
    tracked: RefCell<HashSet<TensorId>>,
    nodes: RefCell<Vec<Node>>,
}

/// Gradients by tensor.
pub(crate) type Gradients = HashMap<TensorId, Tensor>;

impl Tape {
    /// The gradient of this tensor is wanted.
    pub(crate) fn watch(&self, tensor: &Tensor) {
        self.tracked.borrow_mut().insert(tensor.id());
    }

    /// Whether a watched tensor leads to this one.
    pub(crate) fn tracks(&self, tensor: &Tensor) -> bool {
        self.tracked.borrow().contains(&tensor.id())
    }

    /// All tensors that operations on the tape read.
    pub(crate) fn inputs(&self) -> HashSet<TensorId> {
        self.nodes.borrow().iter().flat_map(|node| node.inputs.iter().copied()).collect()
    }

    /// Notes an operation, when a watched tensor leads to one of its inputs.
    pub(crate) fn push(&self, inputs: &[&Tensor], output: &Tensor, backward: Backward) {
        if inputs.iter().any(|input| self.tracks(input)) {
            self.note(inputs.iter().map(|input| input.id()).collect(), output, backward);
        }
    }

    fn note(&self, inputs: Vec<TensorId>, output: &Tensor, backward: Backward) {
        self.watch(output);
        self.nodes.borrow_mut().push(Node { output: output.id(), inputs, backward });
    }

    /// Gradients of the watched tensors for a result's gradient `dy`; those that `y` does not depend on are not there.
    ///
    /// # Errors
    /// What an operation's backward refuses.
    pub(crate) fn backward(self, y: &Tensor, dy: Tensor) -> Result<Gradients> {
        let tracked = self.tracked.into_inner();
        let mut gradients = Gradients::from([(y.id(), dy)]);
        for Node { output, inputs, backward } in self.nodes.into_inner().into_iter().rev() {
            let Some(dy) = gradients.remove(&output) else { continue };
            for (input, gradient) in inputs.into_iter().zip(backward(&dy)?) {
                let Some(gradient) = gradient.filter(|_| tracked.contains(&input)) else { continue };
                let sum = match gradients.remove(&input) {
                    Some(before) => sum(&before, &gradient)?,
                    None => gradient,
                };
                gradients.insert(input, sum);
            }
        }
        Ok(gradients)
    }
}

/// y = run(tape) for one operation on the tape, which keeps nothing of those that `run` makes but what `run` itself holds: the
/// backward runs it again, on a tape of its own, and passes the gradient through that (Chen et al. 2016, arXiv 1604.06174).
///
/// `run` must make the same of it each time; gradients are then those without it, bit for bit, since the same is computed in the
/// same order.
pub(crate) fn checkpoint(tape: &Tape, run: impl Fn(&Tape) -> Result<Tensor> + 'static) -> Result<Tensor> {
    let once = Tape { tracked: tape.tracked.clone(), ..Tape::default() };
    let y = run(&once)?;
    // What was read says which gradients there will be: an expert that no token went to is no input.
    let inputs: Vec<TensorId> = tape.tracked.borrow().intersection(&once.inputs()).copied().collect();
    if !inputs.is_empty() {
        let wanted = inputs.clone();
        let backward = move |dy: &Tensor| {
            let again = Tape { tracked: RefCell::new(wanted.iter().copied().collect()), ..Tape::default() };
            let y = run(&again)?;
            let mut gradients = again.backward(&y, dy.clone())?;
            Ok(wanted.iter().map(|input| gradients.remove(input)).collect())
        };
        tape.note(inputs, &y, Box::new(backward));
    }
    Ok(y)
}

/// y = op(x), on the tape when there is one.
pub(crate) fn apply1(tape: Option<&Tape>, x: &Tensor, op: impl CustomOp1 + 'static) -> Result<Tensor> {
    let y = x.apply_op1_no_bwd(&op)?;
    if let Some(tape) = tape {
        let held = (x.clone(), y.clone());
        tape.push(&[x], &y, Box::new(move |dy| Ok(vec![op.bwd(&held.0, &held.1, dy)?])));
    }
    Ok(y)
}

/// y = op(a, b), on the tape when there is one.
pub(crate) fn apply2(tape: Option<&Tape>, a: &Tensor, b: &Tensor, op: impl CustomOp2 + 'static) -> Result<Tensor> {
    let y = a.apply_op2_no_bwd(b, &op)?;
    if let Some(tape) = tape {
        let held = (a.clone(), b.clone(), y.clone());
        tape.push(&[a, b], &y, Box::new(move |dy| op.bwd(&held.0, &held.1, &held.2, dy).map(|(a, b)| vec![a, b])));
    }
    Ok(y)
}

/// y = op(a, b, c), on the tape when there is one.
pub(crate) fn apply3(tape: Option<&Tape>, [a, b, c]: [&Tensor; 3], op: impl CustomOp3 + 'static) -> Result<Tensor> {
    let y = a.apply_op3_no_bwd(b, c, &op)?;
    if let Some(tape) = tape {
        let (ha, hb, hc, hy) = (a.clone(), b.clone(), c.clone(), y.clone());
        let backward = move |dy: &Tensor| op.bwd(&ha, &hb, &hc, &hy, dy).map(|(a, b, c)| vec![a, b, c]);
        tape.push(&[a, b, c], &y, Box::new(backward));
    }
    Ok(y)
}

/// The same values in another shape.
pub(crate) fn reshape(tape: Option<&Tape>, x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let y = x.reshape(dims)?;
    if let Some(tape) = tape {
        let shape = x.shape().clone();
        tape.push(&[x], &y, Box::new(move |dy| Ok(vec![Some(dy.reshape(shape)?)])));
    }
    Ok(y)
}

/// a + b, of one shape.
pub(crate) fn add(tape: Option<&Tape>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = sum(a, b)?;
    if let Some(tape) = tape {
        tape.push(&[a, b], &y, Box::new(|dy| Ok(vec![Some(dy.clone()), Some(dy.clone())])));
    }
    Ok(y)
}

/// Rows of `x` (rows, width), each taken once at most.
pub(crate) fn select_rows(tape: Option<&Tape>, x: &Tensor, rows: Vec<u32>) -> Result<Tensor> {
    let (all, width) = x.dims2()?;
    let mut taken = vec![false; all];
    for row in &rows {
        match taken.get_mut(*row as usize) {
            Some(taken) if !*taken => *taken = true,
            _ => bail!("row {row} of {all} is taken twice or is not there"),
        }
    }
    let values = {
        let view = view(x);
        let values = view.slice()?;
        rows.iter().flat_map(|row| &values[*row as usize * width..][..width]).copied().collect::<Vec<f32>>()
    };
    let y = Tensor::from_vec(values, (rows.len(), width), x.device())?;
    if let Some(tape) = tape {
        let backward = move |dy: &Tensor| {
            let view = view(dy);
            let mut dx = vec![0f32; all * width];
            for (row, dy) in rows.iter().zip(view.slice()?.chunks(width)) {
                dx[*row as usize * width..][..width].copy_from_slice(dy);
            }
            Ok(vec![Some(Tensor::from_vec(dx, (all, width), dy.device())?)])
        };
        tape.push(&[x], &y, Box::new(backward));
    }
    Ok(y)
}

/// a + b in one pass over memory.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() {
        bail!("a sum of {:?} and {:?}", a.dims(), b.dims());
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let (a_view, b_view) = (view(&a), view(&b));
    let sum = a_view.slice()?.par_iter().zip(b_view.slice()?).with_min_len(1 << 15).map(|(a, b)| a + b).collect();
    Tensor::from_vec::<_, f32>(sum, a.shape(), a.device())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use candle_core::Device;

    use super::*;

    /// A part of a computation, which can be run on any tape.
    type Part = Rc<dyn Fn(&Tape) -> Result<Tensor>>;

    fn tensor(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).expect("a tensor")
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32 values")
    }

    #[test]
    fn gradients_of_all_uses_are_summed_and_untouched_rows_get_none() {
        let tape = Tape::default();
        let (x, constant) = (tensor(&[1.0, 2.0, 3.0, 4.0], (2, 2)), tensor(&[1.0; 4], (2, 2)));
        tape.watch(&x);
        let on = Some(&tape);
        let y = add(on, &add(on, &x, &constant).expect("x + 1"), &x).expect("2x + 1");
        let y = select_rows(on, &reshape(on, &y, &[4, 1]).expect("a column"), vec![2, 0]).expect("two rows");
        assert_eq!(values(&y), [7.0, 3.0]);
        let gradients = tape.backward(&y, tensor(&[10.0, 1.0], (2, 1))).expect("gradients");
        assert_eq!(values(&gradients[&x.id()]), [2.0, 0.0, 20.0, 0.0]);
        assert!(!gradients.contains_key(&constant.id()));
    }

    #[test]
    fn what_nothing_watched_leads_to_is_not_kept() {
        let tape = Tape::default();
        let x = tensor(&[1.0; 4], (2, 2));
        let y = add(Some(&tape), &x, &x).expect("a sum");
        assert!(!tape.tracks(&y) && tape.nodes.borrow().is_empty());
    }

    /// Inputs from outside and from another checkpoint, one of them read twice, one nested; and one that is watched but not read.
    #[test]
    fn checkpoints_change_no_gradient_and_keep_no_operation() {
        let (x, w, unread) =
            (tensor(&[0.1, 0.7, -0.3, 1.9], (2, 2)), tensor(&[0.3; 4], (2, 2)), tensor(&[1.0], (1, 1)));
        let gradients = |with: &dyn Fn(&Tape, Part) -> Result<Tensor>| {
            let tape = Tape::default();
            [&x, &w, &unread].iter().for_each(|watched| tape.watch(watched));
            let (y, other) = (x.clone(), w.clone());
            let inner: Part = Rc::new(move |tape| add(Some(tape), &add(Some(tape), &y, &other)?, &y));
            let y = with(&tape, inner).expect("2x + w");
            let (z, other) = (y.clone(), w.clone());
            let outer: Part = Rc::new(move |tape| {
                let (z, other) = (z.clone(), other.clone());
                let nested = checkpoint(tape, move |tape| add(Some(tape), &z, &other))?;
                select_rows(Some(tape), &nested, vec![1])
            });
            let y = with(&tape, outer).expect("a row of 2x + 2w");
            let (nodes, read) = (tape.nodes.borrow().len(), tape.inputs());
            let found = tape.backward(&y, tensor(&[0.1, 0.2], (1, 2))).expect("gradients");
            assert!(read.contains(&w.id()) && !read.contains(&unread.id()) && !found.contains_key(&unread.id()));
            (nodes, values(&y), values(&found[&x.id()]), values(&found[&w.id()]))
        };
        let kept = gradients(&|tape, run| run(tape));
        let again = gradients(&|tape, run| checkpoint(tape, move |tape| run(tape)));
        assert_eq!((kept.0, again.0), (4, 2));
        assert_eq!((kept.1, kept.2, kept.3), (again.1, again.2, again.3));
    }

    #[test]
    fn a_checkpoint_of_what_nothing_watched_leads_to_is_not_kept() {
        let (tape, x) = (Tape::default(), tensor(&[1.0; 4], (2, 2)));
        tape.watch(&tensor(&[1.0], (1, 1)));
        let y = checkpoint(&tape, move |tape| add(Some(tape), &x, &x)).expect("a sum");
        assert!(!tape.tracks(&y) && tape.nodes.borrow().is_empty());
    }

    /// It is reported as the operation's own error, in the forward or when it is run again.
    #[test]
    fn what_a_checkpoint_refuses_is_an_error() {
        let (tape, x) = (Tape::default(), tensor(&[1.0; 4], (2, 2)));
        tape.watch(&x);
        let taken = x.clone();
        assert!(checkpoint(&tape, move |tape| select_rows(Some(tape), &taken, vec![2])).is_err());
        let runs = Cell::new(0);
        let y = checkpoint(&tape, move |tape| {
            runs.set(runs.get() + 1);
            select_rows(Some(tape), &x, vec![0, runs.get()])
        });
        let y = y.expect("rows 0 and 1");
        assert!(tape.backward(&y, tensor(&[1.0; 4], (2, 2))).is_err());
    }

    #[test]
    fn shapes_that_differ_and_rows_taken_twice_are_refused() {
        let x = tensor(&[1.0; 4], (2, 2));
        assert!(add(None, &x, &tensor(&[1.0; 2], (1, 2))).is_err());
        assert!(select_rows(None, &x, vec![1, 1]).is_err());
        assert!(select_rows(None, &x, vec![2]).is_err());
    }
}
