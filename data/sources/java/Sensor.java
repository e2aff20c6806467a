import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

class Sensor {
    private int limit = 30;

    int read(Path path) throws IOException {
        String text = Files.readString(path);
        int value = Integer.parseInt(text.trim());
        if (value > limit) {
            throw new IllegalStateException("too hot");
        }
        return value;
    }

    void setLimit(int limit) {
        this.limit = limit;
    }
}
