function slugify(title) {
  const words = title.toLowerCase().split(" ");
  return words.filter(function (word) {
    return word.length > 0;
  }).join("-");
}

function shorten(text, limit) {
  if (text.length <= limit) {
    return text;
  }
  return text.slice(0, limit) + "...";
}

console.log(slugify("Hello big world"), shorten("abcdef", 3));
