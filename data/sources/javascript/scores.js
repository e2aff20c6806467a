const scores = new Map();

function addScore(player, points) {
  const old = scores.get(player) || 0;
  scores.set(player, old + points);
}

function best() {
  let winner = null;
  scores.forEach((points, player) => {
    if (winner === null || points > scores.get(winner)) {
      winner = player;
    }
  });
  return winner;
}

addScore("ada", 3);
addScore("bob", 5);
console.log(best());
