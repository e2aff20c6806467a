import java.util.LinkedList;
import java.util.Queue;

class Tokenizer {
    private final Queue<String> tokens = new LinkedList<>();

    Tokenizer(String text) {
        for (String part : text.split(" ")) {
            if (!part.isEmpty()) {
                tokens.add(part);
            }
        }
    }

    boolean hasNext() {
        return !tokens.isEmpty();
    }

    String next() {
        return tokens.poll();
    }
}
