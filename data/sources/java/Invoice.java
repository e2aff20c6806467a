import java.util.ArrayList;
import java.util.List;

public class Invoice {
    private final List<Double> prices = new ArrayList<>();
    private final String owner;

    public Invoice(String owner) {
        this.owner = owner;
    }

    public void add(double price) {
        prices.add(price);
    }

    public double total() {
        double sum = 0;
        for (double price : prices) {
            sum += price;
        }
        return sum;
    }

    public String getOwner() {
        return owner;
    }
}
