const width = 4;
const height = 3;

function makeGrid(fill) {
  const rows = [];
  for (let y = 0; y < height; y++) {
    const row = [];
    for (let x = 0; x < width; x++) {
      row.push(fill);
    }
    rows.push(row);
  }
  return rows;
}

const grid = makeGrid(".");
grid[1][2] = "#";
console.log(grid.map((row) => row.join("")).join("\n"));
