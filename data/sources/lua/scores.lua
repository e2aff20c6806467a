local scores = { ada = 3, bob = 7, eve = 5 }

local function best(limit)
  local winner, points = nil, 0
  for name, score in pairs(scores) do
    if score > points and score < limit then
      winner, points = name, score
    end
  end
  return winner, points
end

local function sum(...)
  local total = 0
  for _, value in ipairs({ ... }) do
    total = total + value
  end
  return total
end

print(best(10), sum(1, 2, 3))
