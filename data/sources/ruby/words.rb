def tally(text)
  table = Hash.new(0)
  text.split.each { |word| table[word] += 1 }
  table
end

def longest(words)
  best = ""
  for word in words
    best = word if word.size > best.size
  end
  best
end

puts tally("a b a")
puts longest(%w[tea coffee milk])
