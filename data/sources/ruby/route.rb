def distance(from, to)
  dx = from[0] - to[0]
  dy = from[1] - to[1]
  Math.sqrt(dx**2 + dy**2)
end

def route_length(points)
  total = 0.0
  points.each_cons(2) do |from, to|
    total += distance(from, to)
  end
  total
end

while (line = gets)
  numbers = line.split.map { |part| part.to_i }
  puts route_length(numbers.each_slice(2).to_a)
end
