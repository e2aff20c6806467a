WIDTH = 4

def build(height)
  rows = []
  height.times do |y|
    row = Array.new(WIDTH) { |x| x * y }
    rows << row
  end
  rows
end

def render(rows)
  rows.map do |row|
    row.join(" ")
  end
end

case WIDTH
when 4 then puts render(build(2))
else puts "odd"
end
