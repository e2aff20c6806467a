const TAX = 0.2;

function lineTotal(line) {
  return line.price * line.amount;
}

function cartTotal(lines) {
  let total = 0;
  for (const line of lines) {
    total += lineTotal(line);
  }
  return total * (1 + TAX);
}

const cart = [{ price: 3, amount: 2 }, { price: 5, amount: 1 }];
console.log(cartTotal(cart));
