local Vector = {}
Vector.__index = Vector

function Vector.new(x, y)
  return setmetatable({ x = x, y = y }, Vector)
end

function Vector:length()
  return math.sqrt(self.x ^ 2 + self.y ^ 2)
end

function Vector:scale(factor)
  if factor == 0 then
    return Vector.new(0, 0)
  end
  return Vector.new(self.x * factor, self.y * factor)
end

return Vector
